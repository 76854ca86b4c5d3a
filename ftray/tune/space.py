"""The search space as specs: of one trial, and of all depths that trials may have."""

from __future__ import annotations

from typing import Any

from ftray.spec.load import override
from ftray.spec.schema import Spec

_MANY_BLOCKS = 1000


def trial_spec(spec: Spec, config: dict[str, Any]) -> Spec:
    """The spec of one trial: the values at their paths, at the scale of a trial."""
    assert spec.tune is not None
    scale: dict[str, Any] = {"scale.workers": spec.tune.workers}
    if spec.tune.gpus_per_worker in (0, 1):
        scale["scale.gpus_per_worker"] = spec.tune.gpus_per_worker
    return override(spec, {**config, **scale})


def work(spec: Spec, config: dict[str, Any]) -> float:
    """How long a trial takes, as far as its values tell, beside others of the same sweep: epochs
    times blocks that train. What names no number of blocks counts as more than any number."""
    blocks = config.get("train.unfreeze", 0)
    epochs: int = config.get("train.epochs", spec.train.epochs)
    return epochs * (1 + (blocks if isinstance(blocks, int) else _MANY_BLOCKS))


def depth_variants(spec: Spec) -> tuple[Spec, ...]:
    """The spec with each value of train.unfreeze that a trial may have."""
    assert spec.tune is not None
    domain = spec.tune.space.get("train.unfreeze")
    if domain is None:
        return (spec,)
    return tuple(override(spec, {"train.unfreeze": value}) for value in domain.grid)
