"""Finds a trained model by the reference that a user gives: its folder, manifest and version."""

from __future__ import annotations

from dataclasses import dataclass

from ftray.models.artifact.manifest import ModelInfo, read_info
from ftray.store.deployments.promotion import resolve
from ftray.store.files.location import Location, locate
from ftray.store.registry.registry import Registry
from ftray.store.registry.versions import is_path
from ftray.store.root import open_root


@dataclass(frozen=True)
class NamedModel:
    """A trained model that was found by its reference.

    version: None for a model that was named by its folder. trust_remote_code: whether code that
    comes with the model may run.
    """

    folder: Location
    name: str
    version: int | None
    info: ModelInfo
    trust_remote_code: bool = False

    @property
    def reference(self) -> str:
        return self.name if self.version is None else f"{self.name}:{self.version}"


def find_named(reference: str, storage: str | None, trust_remote_code: bool = False) -> NamedModel:
    """Find the model of a MODEL argument: a registered model, or a model folder's path or URL.

    Raises RegistryError for a name that is not registered, ModelError for a folder that is none.
    """
    if is_path(reference):
        folder = locate(reference)
        info = read_info(folder)
        return NamedModel(folder, info.name, None, info, trust_remote_code)
    found = resolve(Registry(open_root(storage)), reference)
    info = read_info(found.folder)
    return NamedModel(found.folder, found.name, found.version, info, trust_remote_code)
