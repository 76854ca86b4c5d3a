"""The registry: the versions of each model, their aliases, and their folders.

MLflow stores versions and aliases. MLflow knows a folder only by its path below the storage root,
in the source `ftray:/models/NAME/RUN_ID` (a tracking server refuses sources without a scheme). So a
root can be moved or copied together with its registry.
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
        """Make no call to MLflow. Raises RegistryError for a remote root without a server."""
        require_database(root)
        self.root = root
        self._opened: MlflowClient | None = None

    def check(self) -> None:
        """Raise RegistryError or StorageError unless the registry answers; write nothing to it."""
        if self._is_empty():
            self.root.check_writable()
            return
        with translated(tracking_uri(self.root)):
            self._client().search_registered_models(max_results=1)

    def open_ahead(self) -> Callable[[], None]:
        """Begin to make or open the database, which takes seconds.

        The returned function waits until the database is open, and raises RegistryError or
        StorageError where it cannot be opened. A run calls the returned function before training,
        so as to spend no training on a model that cannot be registered."""
        opening: Future[MlflowClient] = Future()

        def begin() -> None:
            try:
                opening.set_result(self._ask(self._client))
            except Exception as error:  # noqa: BLE001 - raised where it is waited for
                opening.set_exception(error)

        # A daemon thread: a process that is asked to end does not wait for it.
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
        tracked: str | None = None,
    ) -> ModelVersion:
        """Register `folder` as the next version of `name`, or find the version that it already is.

        `tags` are the version's lineage: spec digest, data digest, base model; `tracked` is the id
        of the run in MLflow, to which MLflow's page links the version. Retries for a few
        seconds where the registry does not answer.
        """
        source = self._source(folder)
        lineage = {"storage": str(self.root), **(tags or {}), "run": run}

        def add() -> ModelVersion:
            # Two drivers must do these two steps, look and write, one driver after the other.
            with exclusive(self.root):
                client = self._client()
                if not self._found(f"name = '{name}' and source_path = '{source}'"):
                    _ensure_name(client, name)
                    client.create_model_version(
                        name,
                        source,
                        run_id=tracked,
                        tags=lineage | metric_tags(metrics),
                        await_creation_for=0,
                    )
            return self._found(f"name = '{name}' and source_path = '{source}'")[-1]

        self._client()  # takes the exclusive lock for itself, so it must come before `add`
        return _patiently(lambda: self._ask(add))

    def resolve(self, reference: str) -> ModelVersion:
        """Find the version that NAME (its newest), NAME@alias or NAME:VERSION means.

        Raises RegistryError, with the known names or versions, where there is none, and where the
        model's folder is gone.
        """
        wanted = Reference.parse(reference)
        versions = self.versions(wanted.name)
        if not versions:
            raise self._no_such_name(wanted)
        chosen = wanted.choose(versions)
        self._check_folder(wanted, chosen)
        return chosen

    def point(self, alias: str, name: str, version: int) -> None:
        """Point `alias` to that version and away from any other."""
        client = self._client
        self._ask(lambda: client().set_registered_model_alias(name, alias, str(version)))

    def delete(self, version: ModelVersion) -> None:
        """Remove that version from the registry; its folder stays. MLflow never reuses its
        number."""
        number = str(version.version)
        self._ask(lambda: self._client().delete_model_version(version.name, number))

    def versions(self, name: str) -> list[ModelVersion]:
        """List all versions of `name`, oldest first; empty for an unknown name."""
        if self._is_empty() or not _NAME.fullmatch(name):
            return []
        return self._ask(lambda: self._found(f"name = '{name}'"))

    def names(self) -> list[str]:
        """List the names of models with a version in this registry, sorted."""
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
        """Return whether no model was ever registered, without making the database."""
        return server() is None and not self.root.registry_database.exists()

    def _found(self, query: str) -> list[ModelVersion]:
        client = self._client()
        found = [
            version
            for version in client.search_model_versions(query)
            # Other tools may keep models of their own on a shared server.
            if str(version.source).startswith(_SCHEME)
        ]
        if not found:
            return []
        # MLflow's search returns no aliases.
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
