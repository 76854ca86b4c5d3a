"""Where a base model comes from, as far as its folder says so: its Hub id and its licence."""

from __future__ import annotations

import yaml

from ftray.models.artifact.manifest import CARD
from ftray.models.border import read_config
from ftray.models.pretrained import CONFIG, Pretrained, is_hub_id


def hub_id(base: Pretrained) -> str | None:
    """The base's own id where it was taken from the Hub; of a folder the one in its config, where
    that is one."""
    if base.is_of_hub:
        return base.spec.name_or_path
    content = (base.folder / CONFIG).read_bytes()
    told = read_config(base.spec.name_or_path, content).get("_name_or_path")
    # A name without an owner may as well be that of somebody's folder.
    return told if isinstance(told, str) and "/" in told and is_hub_id(told) else None


def license_of(base: Pretrained) -> str | None:
    """What the base's own card names; None where there is no card, or one that cannot be read."""
    from huggingface_hub.repocard import metadata_load

    try:
        told = (metadata_load(base.folder / CARD) or {}).get("license")
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return told if isinstance(told, str) else None
