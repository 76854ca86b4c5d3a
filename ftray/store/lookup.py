"""Resolves a MODEL argument: a registered model, or a model folder."""

from __future__ import annotations

import json
from dataclasses import dataclass

from ftray.errors import ModelError
from ftray.store.deployments.promotion import resolve
from ftray.store.files.location import Location, locate
from ftray.store.registry.registry import Registry
from ftray.store.registry.versions import is_path
from ftray.store.root import MODEL_MANIFEST, open_root


@dataclass(frozen=True)
class FoundModel:
    """A model folder, and the version that led to it; None for a folder named by its path."""

    folder: Location
    name: str
    version: int | None


def find_model(reference: str, storage: str | None) -> FoundModel:
    """Find the model of a MODEL argument: a registered model, or a model folder's path or URL.

    Raises RegistryError for a name that is not registered, ModelError for a folder that is none.
    """
    if is_path(reference):
        folder = locate(reference)
        return FoundModel(folder, _name_in(folder), None)
    found = resolve(Registry.open(open_root(storage)), reference)
    return FoundModel(found.folder, found.name, found.version)


def _name_in(folder: Location) -> str:
    """Read the model's name in the manifest of its folder."""
    manifest = folder / MODEL_MANIFEST
    fix = "name a registered model, or a folder that `ftray train` wrote"
    try:
        content = manifest.read_json() if manifest.is_file() else None
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError.of(manifest.url, None, f"cannot be read: {error}", fix) from None
    if content is None:
        what = f"not an ftray model folder: it has no {MODEL_MANIFEST}"
        raise ModelError.of("model", folder.url, what if folder.exists() else "no such folder", fix)
    name = content.get("name") if isinstance(content, dict) else None
    return str(name or folder.name)
