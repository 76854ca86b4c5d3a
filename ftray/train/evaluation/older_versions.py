"""Whether an older version of a model does better than the one just trained."""

from __future__ import annotations

from dataclasses import dataclass

from ftray.errors import ModelError
from ftray.models.artifact.manifest import ModelInfo, read_info
from ftray.store.registry.registry import Registry
from ftray.store.registry.versions import ModelVersion

_MOST = 20
"""How many of the older versions are looked at, from the newest on."""
_CAVEAT = (
    "; these are not the same rows, encoded alike: `ftray evaluate MODEL --data FILE` measures "
    "both on one file"
)


def better_version(registry: Registry, version: ModelVersion, info: ModelInfo) -> str | None:
    """A line that names the best older version, where that does better than `version` by the
    validation metric that picked its checkpoint; None where none does."""
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
    """Another version of the model, by the validation metric that picked our checkpoint."""

    version: ModelVersion
    lead: float
    """Its advantage by that metric; below 0: it does worse."""
    figures: str
    on_same_rows: bool
    """Encoded alike, too."""


def rival_of(info: ModelInfo, version: ModelVersion) -> Rival | None:
    """`version` beside the model that `info` describes; None where its folder is gone, or it has
    another task or no such metric."""
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
