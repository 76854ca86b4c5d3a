"""Compares a newly trained model with older versions by their validation metrics."""

from __future__ import annotations

from dataclasses import dataclass

from ftray.errors import ModelError
from ftray.models.artifact.manifest import ModelInfo, read_info
from ftray.store.registry.registry import Registry
from ftray.store.registry.versions import ModelVersion

_MOST = 20
"""Number of older versions to compare, from the newest on."""
_CAVEAT = (
    "; these are not the same rows, encoded alike: `ftray evaluate MODEL --data FILE` measures "
    "both on one file"
)


def better_version(registry: Registry, version: ModelVersion, info: ModelInfo) -> str | None:
    """Return a line that names the best older version, if this older version does better than
    `version` by the validation metric that picked the checkpoint of `version`; None if no older
    version does."""
    older = [each for each in registry.versions(version.name) if each.version < version.version]
    rivals = [rival for each in older[-_MOST:] if (rival := rival_of(info, each))]
    best = max(rivals, key=lambda rival: rival.lead, default=None)
    if best is None or best.lead <= 0:
        return None
    return (
        f"{best.version.reference} does better on its validation split: {best.figures} of "
        f"{version.reference}{'' if best.on_same_rows else _CAVEAT}"
    )


@dataclass(frozen=True)
class Rival:
    """Another version of the model, compared by the validation metric that picked the new model's
    checkpoint."""

    version: ModelVersion
    lead: float
    """The other version's advantage by the metric; below 0 if the other version does worse."""
    figures: str
    on_same_rows: bool
    """Whether both models were evaluated on the same rows, encoded in the same way."""


def rival_of(info: ModelInfo, version: ModelVersion) -> Rival | None:
    """Compare `version` with the model that `info` describes; returns None if the folder of
    `version` is gone, or `version` has another task or lacks the metric."""
    try:
        other = read_info(version.folder)
    except ModelError:
        return None
    metric = info.spec["train"]["metric"]
    value, own = (each.metrics.get("validation", {}).get(metric) for each in (other, info))
    if other.task != info.task or value is None or own is None:
        return None
    lead = own - value if metric == "loss" else value - own
    figures = f"{metric} {value:.4f} against {own:.4f}"
    return Rival(version, lead, figures, other.data_digest == info.data_digest)
