"""The registry: which versions a model has, what they are called, and in which folder they lie.

Versions and aliases are MLflow's. What MLflow knows of a folder is its path below the storage root,
as the source `ftray:/models/NAME/RUN_ID` (a tracking server refuses sources without a scheme), so a
root can be moved or copied with its registry.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

from ftray.errors import RegistryError
from ftray.near import nearest
from ftray.store.database import (
    exclusive,
    open_client,
    require_database,
    server,
    tracking_uri,
    translated,
)
from ftray.store.files.location import Location
from ftray.store.registry.versions import ModelVersion, Reference, from_mlflow, metric_tags
from ftray.store.root import MODEL_MANIFEST, Root

if TYPE_CHECKING:
    from mlflow import MlflowClient

R = TypeVar("R")

_SCHEME = "ftray:/"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
_PAUSES = (2.0, 5.0)  # seconds between attempts to register: a trained model is worth a wait


class Registry:
    """The models of one storage root. Every method raises RegistryError when the database or the
    tracking server cannot be used."""

    def __init__(self, root: Root) -> None:
        require_database(root)
        self.root = root
        self._opened: MlflowClient | None = None

    @classmethod
    def open(cls, root: Root) -> Registry:
        """Nothing is made or asked yet. Raises RegistryError for a remote root without a server."""
        return cls(root)

    def check(self) -> None:
        """Raises RegistryError or StorageError unless the registry answers; writes nothing."""
        if self._is_empty():
            self.root.check_writable()
            return
        with translated(tracking_uri(self.root)):
            self._client().search_registered_models(max_results=1)

    def open_ahead(self) -> Callable[[], None]:
        """Begin to make or open the database, which takes seconds. The function that is returned
        waits for that, and raises RegistryError or StorageError where it cannot be: before a
        training is spent on what cannot be registered."""
        opening: Future[MlflowClient] = Future()

        def begin() -> None:
            try:
                opening.set_result(self._ask(self._client))
            except Exception as error:  # noqa: BLE001 - raised where it is waited for
                opening.set_exception(error)

        # A process that is asked to end does not wait for it.
        threading.Thread(target=begin, name="ftray-registry", daemon=True).start()

        def wait() -> None:
            opening.result()

        return wait

    def register(
        self,
        name: str,
        folder: Location,
        run: str,
        metrics: Mapping[str, float],
        tags: Mapping[str, str] | None = None,
    ) -> ModelVersion:
        """`folder` as the next version of `name`, or the version it has already.

        `tags` are its lineage: spec digest, data digest, base model. A registry that does not
        answer is asked again for a few seconds.
        """
        source = self._source(folder)
        lineage = {"storage": str(self.root), **(tags or {}), "run": run}

        def add() -> ModelVersion:
            # Two drivers that look and then write must do so one after the other.
            with exclusive(self.root):
                client = self._client()
                if not self._found(f"name = '{name}' and source_path = '{source}'"):
                    _ensure_name(client, name)
                    client.create_model_version(
                        name, source, tags=lineage | metric_tags(metrics), await_creation_for=0
                    )
            return self._found(f"name = '{name}' and source_path = '{source}'")[-1]

        self._client()  # takes the same lock for itself
        return _patiently(lambda: self._ask(add))

    def resolve(self, reference: str) -> ModelVersion:
        """The version that NAME (its newest), NAME@alias or NAME:VERSION means.

        Raises RegistryError with what there is instead, also when the model's folder is gone.
        """
        wanted = Reference.parse(reference)
        versions = self.versions(wanted.name)
        if not versions:
            raise self._no_such_name(wanted)
        chosen = wanted.choose(versions)
        self._check_folder(wanted, chosen)
        return chosen

    def point(self, alias: str, name: str, version: int) -> None:
        """Have `alias` mean that version, and no other any more."""
        client = self._client
        self._ask(lambda: client().set_registered_model_alias(name, alias, str(version)))

    def delete(self, version: ModelVersion) -> None:
        """Forget that version; its folder stays. Its number is not given again."""
        number = str(version.version)
        self._ask(lambda: self._client().delete_model_version(version.name, number))

    def versions(self, name: str) -> list[ModelVersion]:
        """All versions of `name`, oldest first; none for an unknown name."""
        if self._is_empty() or not _NAME.fullmatch(name):
            return []
        return self._ask(lambda: self._found(f"name = '{name}'"))

    def names(self) -> list[str]:
        """The models that have a version here, by name."""
        if self._is_empty():
            return []
        query = f"source_path LIKE '{_SCHEME}%'"
        found = self._ask(lambda: self._client().search_model_versions(query))
        return sorted({version.name for version in found})

    def _client(self) -> MlflowClient:
        if self._opened is None:
            self._opened = open_client(self.root)
        return self._opened

    def _ask(self, question: Callable[[], R]) -> R:
        with translated(tracking_uri(self.root)):
            return question()

    def _is_empty(self) -> bool:
        """Nothing was ever registered: looking must not make the database."""
        return server() is None and not self.root.registry_database.exists()

    def _found(self, query: str) -> list[ModelVersion]:
        client = self._client()
        found = [
            version
            for version in client.search_model_versions(query)
            # On a shared server other tools may keep models of their own.
            if str(version.source).startswith(_SCHEME)
        ]
        if not found:
            return []
        # The search leaves aliases out.
        aliases = client.get_registered_model(found[0].name).aliases
        versions = [from_mlflow(version, aliases, self.root.location, _SCHEME) for version in found]
        return sorted(versions, key=lambda version: version.version)

    def _source(self, folder: Location) -> str:
        base = self.root.location.path.rstrip("/") + "/"
        if not folder.path.startswith(base):
            raise RegistryError.of(
                "model", folder.url, f"lies outside the storage root {self.root}", "copy it there"
            )
        return _SCHEME + folder.path.removeprefix(base)

    def _no_such_name(self, wanted: Reference) -> RegistryError:
        names = self.names()
        close = nearest(wanted.name, names)
        fix = f"Did you mean {close}? " if close else ""
        if names:
            fix += f"Models here: {', '.join(names[:10])}{', …' if len(names) > 10 else ''}"
        else:
            fix += "there is none yet: train one, or name another root with --storage"
        return RegistryError.of("model", wanted.text, f"no such model in {self.root}", fix)

    def _check_folder(self, wanted: Reference, version: ModelVersion) -> None:
        if (version.folder / MODEL_MANIFEST).is_file():
            return
        home = version.lineage.get("storage", "")
        fix = "copy the folder back, or name another version"
        if home != str(self.root):
            fix = f"it was registered from {home}: name that with --storage, or copy it here"
        raise RegistryError.of(
            "model", wanted.text, f"version {version.version} has no folder {version.folder}", fix
        )


def _ensure_name(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _patiently(attempt: Callable[[], R]) -> R:
    for pause in _PAUSES:
        try:
            return attempt()
        except RegistryError:
            time.sleep(pause)
    return attempt()
