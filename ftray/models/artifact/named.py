"""Finds a trained model by the reference that a user gives: its folder, manifest and version."""

from __future__ import annotations

from dataclasses import dataclass

from ftray.models.artifact.manifest import ModelInfo, read_info
from ftray.store.files.location import Location
from ftray.store.lookup import find_model


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
    """Find a model by its reference. Raises RegistryError or ModelError when there is no such
    model."""
    found = find_model(reference, storage)
    info = read_info(found.folder)
    return NamedModel(found.folder, found.name, found.version, info, trust_remote_code)
