"""Reads a base model's origin from its folder: its Hub id and its licence."""

from __future__ import annotations

import yaml

from ftray.models.artifact.manifest import CARD
from ftray.models.border import read_config
from ftray.models.pretrained import CONFIG, Pretrained, is_hub_id


def hub_id(base: Pretrained) -> str | None:
    """Return the Hub id of a base from the Hub. For a folder, return the name in its config where
    this can be a Hub id, else None."""
    if base.is_of_hub:
        return base.spec.name_or_path
    content = (base.folder / CONFIG).read_bytes()
    told = read_config(base.spec.name_or_path, content).get("_name_or_path")
    # A name without an owner may be the name of a user's folder.
    return told if isinstance(told, str) and "/" in told and is_hub_id(told) else None


def license_of(base: Pretrained) -> str | None:
    """Return the licence in the base model's card; None where the card names none, is missing or
    cannot be read."""
    from huggingface_hub.repocard import metadata_load

    try:
        told = (metadata_load(base.folder / CARD) or {}).get("license")
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return told if isinstance(told, str) else None
