"""The search space as specs: of one trial, and of all depths that trials may have."""

from __future__ import annotations

from typing import Any

from ftray.spec.load import override
from ftray.spec.schema import Spec


def trial_spec(spec: Spec, config: dict[str, Any]) -> Spec:
    """The spec of one trial: the values at their paths, at the scale of a trial."""
    assert spec.tune is not None
    return override(spec, {**config, "scale.workers": spec.tune.workers})


def depth_variants(spec: Spec) -> tuple[Spec, ...]:
    """The spec with each value of train.unfreeze that a trial may have."""
    assert spec.tune is not None
    domain = spec.tune.space.get("train.unfreeze")
    if domain is None:
        return (spec,)
    return tuple(override(spec, {"train.unfreeze": value}) for value in domain.grid)
