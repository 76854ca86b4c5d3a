"""Whether an older version of a model does better than the one just trained."""

from __future__ import annotations

from collections.abc import Iterator

from ftray.errors import ModelError
from ftray.models.folder import ModelInfo, read_info
from ftray.store.registry import Registry
from ftray.store.versions import ModelVersion

_MOST = 20
"""How many of the older versions are looked at, from the newest on."""


def better_version(registry: Registry, version: ModelVersion, info: ModelInfo) -> str | None:
    """A line that names the best older version, where that does better than `version` by the
    validation metric that picked its checkpoint; None where none does."""
    metric = info.spec["train"]["metric"]
    sign = -1 if metric == "loss" else 1
    own = info.metrics["validation"][metric]
    rivals = [
        (described.metrics["validation"][metric], older, described)
        for older, described in _older(registry, version)
        if described.task == info.task and metric in described.metrics.get("validation", {})
    ]
    value, older, described = max(
        rivals, key=lambda rival: sign * rival[0], default=(own, version, info)
    )
    if sign * (value - own) <= 0:
        return None
    return (
        f"{older.reference} does better on its validation split: {metric} {value:.4f} against "
        f"{own:.4f} of {version.reference}{_caveat(info, described)}"
    )


def _caveat(info: ModelInfo, older: ModelInfo) -> str:
    if older.data_digest == info.data_digest:
        return ""
    return (
        "; these are not the same rows, encoded alike: `ftray evaluate MODEL --data FILE` measures "
        "both on one file"
    )


def _older(registry: Registry, version: ModelVersion) -> Iterator[tuple[ModelVersion, ModelInfo]]:
    older = [each for each in registry.versions(version.name) if each.version < version.version]
    for each in older[-_MOST:]:
        try:
            yield each, read_info(each.folder)
        except ModelError:
            continue  # a version whose folder was deleted or moved is no rival
