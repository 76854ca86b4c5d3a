"""The search space: from the spec's domains to Ray Tune's."""

from __future__ import annotations

from typing import Any

from ftray.spec.load import override
from ftray.spec.schema import Domain, Spec, TuneSpec


def param_space(tune_spec: TuneSpec) -> dict[str, Any]:
    """Dotted path -> Ray Tune's domain."""
    return {path: _domain(domain) for path, domain in tune_spec.space.items()}


def trial_spec(spec: Spec, config: dict[str, Any]) -> Spec:
    """The spec of one trial: the values at their paths, at the scale of a trial."""
    assert spec.tune is not None
    return override(spec, {**config, "scale.workers": spec.tune.workers})


def most_epochs(spec: Spec) -> int:
    """The epochs of the longest trial."""
    assert spec.tune is not None
    domain = spec.tune.space.get("train.epochs")
    return max(domain.values) if domain else spec.train.epochs


def depth_variants(spec: Spec) -> tuple[Spec, ...]:
    """The spec with each value of train.unfreeze that a trial may have."""
    assert spec.tune is not None
    domain = spec.tune.space.get("train.unfreeze")
    if domain is None:
        return (spec,)
    values = domain.values
    if domain.kind == "randint":
        values = tuple(range(values[0], values[1] + 1))
    return tuple(override(spec, {"train.unfreeze": value}) for value in values)


def _domain(domain: Domain) -> Any:
    from ray import tune

    low, high = domain.values[0], domain.values[-1]
    if domain.kind == "choice":
        return tune.choice(list(domain.values))
    if domain.kind == "randint":
        return tune.randint(low, high + 1)  # Ray leaves the upper bound out
    return {"uniform": tune.uniform, "loguniform": tune.loguniform}[domain.kind](low, high)
