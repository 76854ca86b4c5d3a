"""What depth buys: the trials of a sweep by how many blocks they trained, and what that shows.

A depth is called better or beaten on evidence only: its trials must have been tried under like
settings, and the 95 % interval of the difference must leave zero out. The interval of a difference
comes from the intervals of both sides (MOVER, Zou & Donner 2008), be they over seeds or over rows.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from ftray.models.artifact.sample_size import more_that_settle
from ftray.train.progress import BEST, EPOCH_SECONDS, MEMORY
from ftray.tune.study import Study
from ftray.tune.trial_state import TrialState

KEY = "train.unfreeze"
ENOUGH_TRIALS = 3
"""Trials that a depth needs where they differ in other keys too: fewer may just have had poor
values of those."""
AS_GOOD = 0.01
"""The largest difference of two shares that counts as none: one point."""
# Two-sided 95 % quantiles of Student's t by degrees of freedom, and of the normal distribution.
_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
_NORMAL = 1.96


@dataclass(frozen=True)
class Depth:
    """One depth. metric: of its best trial; low to high: the 95 % interval of that metric, over
    the trial's seeds or else as a share of the validation rows (None for a loss with one seed)."""

    unfreeze: Any
    trials: int
    metric: float
    low: float | None
    high: float | None
    seeds: int
    epoch_seconds: float
    """Median over the trials."""
    memory: int | None
    """Bytes that a trial's process held at most."""
    worker_hours: float
    cost: float | None
    pareto: bool = False
    """No other depth was seen to be both as good and as fast."""
    beaten: bool = False
    """A depth that trains no longer was shown to be better."""
    recommended: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Comparison:
    """The depths of a sweep, fastest first; none where the space has fewer than two. `sign` is -1
    where a lower metric is better; `is_share` where the metric is a share of the `rows`; `alike`
    where all depths were tried under the same values of the other keys."""

    depths: tuple[Depth, ...]
    rows: int
    sign: float = 1.0
    is_share: bool = True
    alike: bool = True

    @property
    def recommended(self) -> Depth | None:
        """The depth to train; None where nothing can be told yet."""
        return next((depth for depth in self.depths if depth.recommended), None)

    @cached_property
    def best(self) -> Depth:
        """The depth with the best metric, shown to be the best or not."""
        return max(self.depths, key=lambda depth: self.sign * depth.metric)

    def lead(self, one: Depth, other: Depth) -> tuple[float, float, float] | None:
        """By how much `one` does better than `other`, and the 95 % interval of that; None where
        either has no interval."""
        if one.low is None or one.high is None or other.low is None or other.high is None:
            return None
        higher, lower = (one, other) if self.sign > 0 else (other, one)
        assert higher.low is not None and higher.high is not None
        assert lower.low is not None and lower.high is not None
        gap = higher.metric - lower.metric
        least = gap - math.hypot(higher.metric - higher.low, lower.high - lower.metric)
        most = gap + math.hypot(higher.high - higher.metric, lower.metric - lower.low)
        return gap, least, most

    def comparable(self, *depths: Depth) -> bool:
        """Whether their trials had the same chances."""
        return self.alike or all(depth.trials >= ENOUGH_TRIALS for depth in depths)

    def is_better(self, one: Depth, other: Depth) -> bool:
        """Whether `one` was shown to be better."""
        lead = self.lead(one, other)
        return lead is not None and lead[1] > 0 and self.comparable(one, other)

    def is_as_good(self, one: Depth) -> bool:
        """Whether `one` was shown to be as good as the best, but for a point."""
        lead = self.lead(self.best, one)
        close = lead is not None and self.is_share and lead[2] <= AS_GOOD
        return one is self.best or (close and self.comparable(one, self.best))

    def open(self) -> list[Depth]:
        """The depths faster than the best of which it is open whether they are as good."""
        return [
            depth
            for depth in self.depths
            if depth.epoch_seconds < self.best.epoch_seconds
            and not self.is_as_good(depth)
            and not self.is_better(self.best, depth)
        ]

    def needed(self, depth: Depth, count: int) -> int | None:
        """How many of what the intervals come from, of which there are `count` (rows or seeds),
        would tell `depth` from the best, or show that it is as good; None where no number would."""
        lead = self.lead(self.best, depth)
        if lead is None:
            return None
        gap, least, most = lead
        found = [more_that_settle(gap, gap - least, count)]
        if self.is_share and gap < AS_GOOD:
            found.append(more_that_settle(AS_GOOD - gap, most - gap, count))
        return min((number for number in found if number is not None), default=None)


def compare_depths(course: Study, validation_rows: int) -> Comparison:
    """The depths that were tried, with what the trials show of each.

    Recommended is the fastest of those that are as good as the best, where that can be told.
    """
    by_depth: dict[str, list[TrialState]] = {}
    for trial in course.ranking():
        if KEY in trial.config and math.isfinite(course.mean(trial)):
            by_depth.setdefault(str(trial.config[KEY]), []).append(trial)
    if len(by_depth) < 2:
        return Comparison((), validation_rows)
    found = [_depth(course, trials, validation_rows) for trials in by_depth.values()]
    comparison = Comparison(
        tuple(sorted(found, key=lambda depth: depth.epoch_seconds)),
        validation_rows,
        _sign(course),
        _is_share(course),
        _alike(list(by_depth.values())),
    )
    return _judged(comparison)


def _judged(comparison: Comparison) -> Comparison:
    chosen = None
    if not comparison.open():
        chosen = next(depth for depth in comparison.depths if comparison.is_as_good(depth))
    judged = tuple(
        replace(
            depth,
            pareto=_is_pareto(depth, comparison),
            beaten=_is_beaten(depth, comparison),
            recommended=depth is chosen,
        )
        for depth in comparison.depths
    )
    return replace(comparison, depths=judged)


def _alike(by_depth: Sequence[Sequence[TrialState]]) -> bool:
    """Whether every depth had trials of the same values of the other keys."""
    others = [
        {str(sorted((k, v) for k, v in trial.config.items() if k != KEY)) for trial in trials}
        for trials in by_depth
    ]
    return all(values == others[0] for values in others)


def _depth(course: Study, trials: Sequence[TrialState], rows: int) -> Depth:
    best = trials[0]
    seeds = course.seeds_of(best)
    metric = _sign(course) * course.mean(best)
    values = [seed.metrics[BEST] for seed in seeds if seed.value is not None]
    low, high = _interval(values, rows, course)
    everything = [seed for trial in trials for seed in course.seeds_of(trial)]
    hours = course.section.workers * sum(trial.seconds for trial in everything) / 3600
    price = course.spec.scale.price_per_worker_hour
    held = [int(t.metrics[MEMORY]) for t in everything if MEMORY in t.metrics]
    return Depth(
        unfreeze=best.config[KEY],
        trials=len(trials),
        metric=metric,
        low=low,
        high=high,
        seeds=len(values),
        epoch_seconds=statistics.median(map(_epoch_seconds, trials)),
        memory=max(held, default=None),
        worker_hours=hours,
        cost=None if price is None else hours * price,
    )


def _epoch_seconds(trial: TrialState) -> float:
    """Of its training loop, where that is known: trials with workers of their own tell only how
    long they took in all."""
    return trial.metrics.get(EPOCH_SECONDS, trial.seconds / len(trial.values))


def _interval(
    values: Sequence[float], rows: int, course: Study
) -> tuple[float | None, float | None]:
    """Of several seeds by Student's t; of one, as a share of the rows, by Wilson (1927)."""
    mean = statistics.fmean(values)
    if len(values) > 1:
        quantile = _T.get(len(values) - 1, _NORMAL)
        half = quantile * statistics.stdev(values) / math.sqrt(len(values))
        return mean - half, mean + half
    if not _is_share(course):
        return None, None
    square = _NORMAL**2 / rows
    centre, scale = mean + square / 2, 1 + square
    half = math.sqrt(square * (mean * (1 - mean) + square / 4))
    return (centre - half) / scale, (centre + half) / scale


def _is_share(course: Study) -> bool:
    """Whether the metric is a share of rows. A share of tokens is none: the tokens of one row are
    alike, so their number does not tell how far the share may be off."""
    return course.spec.train.metric_mode == "max" and course.spec.info.has_labels


def _is_beaten(depth: Depth, comparison: Comparison) -> bool:
    return any(
        other.epoch_seconds <= depth.epoch_seconds and comparison.is_better(other, depth)
        for other in comparison.depths
        if other is not depth
    )


def _is_pareto(depth: Depth, comparison: Comparison) -> bool:
    sign = comparison.sign
    return not any(
        sign * other.metric >= sign * depth.metric
        and other.epoch_seconds <= depth.epoch_seconds
        and (other.metric, other.epoch_seconds) != (depth.metric, depth.epoch_seconds)
        for other in comparison.depths
    )


def _sign(course: Study) -> float:
    return -1.0 if course.spec.train.metric_mode == "min" else 1.0
