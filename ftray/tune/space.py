"""Builds specs from the search space: for one trial, and for each depth in the space."""

from __future__ import annotations

from typing import Any

from ftray.spec.load import override
from ftray.spec.schema import Spec

_MANY_BLOCKS = 1000


def trial_spec(spec: Spec, config: dict[str, Any]) -> Spec:
    """Return the spec of one trial: the base spec with the values of `config` and the scale of a
    trial."""
    assert spec.tune is not None
    scale: dict[str, Any] = {"scale.workers": spec.tune.workers}
    if spec.tune.gpus_per_worker in (0, 1):
        scale["scale.gpus_per_worker"] = spec.tune.gpus_per_worker
    return override(spec, {**config, **scale})


def work(spec: Spec, config: dict[str, Any]) -> float:
    """Estimate the relative duration of a trial within its sweep: epochs times (1 + the number of
    blocks that train). A train.unfreeze that is not a number counts as 1,000 blocks."""
    blocks = config.get("train.unfreeze", 0)
    epochs: int = config.get("train.epochs", spec.train.epochs)
    return epochs * (1 + (blocks if isinstance(blocks, int) else _MANY_BLOCKS))


def depth_variants(spec: Spec) -> tuple[Spec, ...]:
    """Return one spec for each value of train.unfreeze in the search space; without this key, the
    spec itself."""
    assert spec.tune is not None
    domain = spec.tune.space.get("train.unfreeze")
    if domain is None:
        return (spec,)
    return tuple(override(spec, {"train.unfreeze": value}) for value in domain.grid)
