"""Searchers choose the values of a trial in the search space.

A searcher is a stateless function of the trial's number and the results of the trials before. So a
sweep that was killed draws the same trials after a resume.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

from ftray.spec.sections.tuning import Domain, TuneSpec

Config = dict[str, Any]
"""Dotted path in the spec -> value."""
Tried = tuple[Config, float | None]
"""A trial's values and its metric, higher is better; None without a metric yet."""
_SWAPS = 20
"""Rounds in which each duplicate trial swaps one value with another trial."""
Searcher = Callable[[TuneSpec, int, int, Sequence[Tried]], Config]
"""(section, seed, number of the trial from 0, earlier trials) -> values of the trial."""


def draw_random(section: TuneSpec, seed: int, number: int, tried: Sequence[Tried]) -> Config:
    """Draw from a Latin hypercube (McKay, Beckman & Conover 1979): for each key, every one of
    `section.count` equal parts of its domain gives one value, in random order. With four choices
    and twelve trials each choice occurs three times, whereas independent draws may omit one. No two
    trials are duplicates, as far as the space has room."""
    count, source = section.count, random.Random(seed)
    columns = []
    for domain in section.space.values():
        drawn = [_value(domain, (part + source.random()) / count) for part in range(count)]
        source.shuffle(drawn)
        columns.append(drawn)
    for _ in range(_SWAPS):
        for twice in _repeated(list(zip(*columns, strict=True))):
            column, other = source.choice(columns), source.randrange(count)
            column[twice], column[other] = column[other], column[twice]
    return {path: column[number] for path, column in zip(section.space, columns, strict=True)}


def draw_grid(section: TuneSpec, seed: int, number: int, tried: Sequence[Tried]) -> Config:
    """Draw the points of a grid in shuffled order, so that a sweep that ends early has covered the
    space evenly."""
    points = list(itertools.product(*(domain.grid for domain in section.space.values())))
    random.Random(seed).shuffle(points)
    return dict(zip(section.space, points[number], strict=True))


def draw_tpe(section: TuneSpec, seed: int, number: int, tried: Sequence[Tried]) -> Config:
    """Draw with Optuna's tree-structured Parzen estimator (Bergstra et al. 2011). Trials that still
    run count as bad ones, so that trials side by side differ."""
    import optuna
    from optuna.trial import TrialState, create_trial

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {path: _distribution(domain) for path, domain in section.space.items()}
    source = random.Random(f"{seed}/{number}").getrandbits(32)
    sampler = optuna.samplers.TPESampler(seed=source, constant_liar=True, multivariate=True)
    study = optuna.create_study(sampler=sampler, direction="maximize")
    for config, value in tried:
        params = {path: _to_optuna(section.space[path], config[path]) for path in section.space}
        known = value is not None and math.isfinite(value)
        state = TrialState.COMPLETE if known else TrialState.RUNNING
        study.add_trial(
            create_trial(
                state=state,
                params=params,
                distributions=distributions,
                value=value if known else None,
            )
        )
    asked = study.ask(distributions)
    return {
        path: _from_optuna(domain, asked.params[path]) for path, domain in section.space.items()
    }


SEARCHERS: dict[str, Searcher] = {"random": draw_random, "grid": draw_grid, "tpe": draw_tpe}


def _value(domain: Domain, share: float) -> Any:
    """Return the quantile of the domain at `share` in [0, 1]."""
    share = min(share, math.nextafter(1, 0))
    if domain.kind == "choice":
        return domain.values[int(share * len(domain.values))]
    low, high = domain.values
    if domain.kind == "randint":
        return low + int(share * (high - low + 1))
    if domain.kind == "uniform":
        return low + share * (high - low)
    drawn = math.exp(math.log(low) + share * math.log(high / low))
    return min(max(drawn, low), high)  # rounding may exceed the bounds


def _repeated(points: Sequence[Any]) -> list[int]:
    """Return the positions of points that duplicate an earlier point."""
    first: dict[str, int] = {}
    return [
        place for place, point in enumerate(points) if first.setdefault(repr(point), place) != place
    ]


def _distribution(domain: Domain) -> Any:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if domain.kind == "choice":
        return CategoricalDistribution(range(len(domain.values)))
    if domain.kind == "randint":
        return IntDistribution(*domain.values)
    low, high = domain.values
    return FloatDistribution(low, high, log=domain.kind == "loguniform")


def _to_optuna(domain: Domain, value: Any) -> Any:
    # Optuna gets the position of a choice, as its categories cannot be lists or mappings.
    return domain.values.index(value) if domain.kind == "choice" else value


def _from_optuna(domain: Domain, value: Any) -> Any:
    return domain.values[value] if domain.kind == "choice" else value
