"""Compares the trials of a sweep by depth, the number of blocks that they train.

A depth counts as better or beaten only on evidence: the trials of both depths must have comparable
settings, and the 95 % interval of the difference must exclude zero. The interval of a difference is
computed from the intervals of both depths (MOVER, Zou & Donner 2008), over seeds or over rows.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from ftray.models.artifact.sample_size import more_that_settle, wilson
from ftray.train.progress import BEST, EPOCH_SECONDS, MEMORY
from ftray.tune.study import Study
from ftray.tune.trial_state import TrialState

KEY = "train.unfreeze"
ENOUGH_TRIALS = 3
"""Trials that a depth needs for a comparison if trials differ in other keys too: with fewer trials,
poor values of the other keys may explain the difference."""
AS_GOOD = 0.01
"""Largest difference between two shares at which they count as equal: one percentage point."""
# Two-sided 95 % quantiles of Student's t by degrees of freedom, and of the normal distribution.
_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
_NORMAL = 1.96


@dataclass(frozen=True)
class Depth:
    """The results at one depth. metric: the metric of the best trial; low, high: the 95 % interval
    of this metric over the trial's seeds, or with one seed as a share of the validation rows (None
    for a loss with one seed)."""

    unfreeze: Any
    trials: int
    metric: float
    low: float | None
    high: float | None
    seeds: int
    epoch_seconds: float
    """Median seconds per epoch over the trials."""
    memory: int | None
    """Peak memory of a trial's process in bytes, the maximum over the trials."""
    worker_hours: float
    cost: float | None
    pareto: bool = False
    """Whether the depth is on the Pareto front of metric and seconds per epoch."""
    beaten: bool = False
    """Whether another depth, at most as slow, was shown to be better."""
    recommended: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Comparison:
    """The depths of a sweep, fastest first; empty if trials of fewer than two depths have results.
    sign: -1 if a lower metric is better; is_share: whether the metric is a share of the `rows`;
    alike: whether the trials of all depths have the same values of the other keys."""

    depths: tuple[Depth, ...]
    rows: int
    sign: float = 1.0
    is_share: bool = True
    alike: bool = True

    @property
    def recommended(self) -> Depth | None:
        """Return the depth to train; None if the trials do not decide yet."""
        return next((depth for depth in self.depths if depth.recommended), None)

    @cached_property
    def best(self) -> Depth:
        """Return the depth with the best observed metric, whether significant or not."""
        return max(self.depths, key=lambda depth: self.sign * depth.metric)

    def lead(self, one: Depth, other: Depth) -> tuple[float, float, float] | None:
        """Return by how much `one` does better than `other`, and the low and high end of the 95 %
        interval of this difference; None if either depth has no interval."""
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
        """Return whether the trials of these depths allow a fair comparison: the same values of
        other keys at each depth, or enough trials at each."""
        return self.alike or all(depth.trials >= ENOUGH_TRIALS for depth in depths)

    def is_better(self, one: Depth, other: Depth) -> bool:
        """Return whether `one` was shown to be better than `other`."""
        lead = self.lead(one, other)
        return lead is not None and lead[1] > 0 and self.comparable(one, other)

    def is_as_good(self, one: Depth) -> bool:
        """Return whether `one` was shown to be at most one point (`AS_GOOD`) worse than the
        best."""
        lead = self.lead(self.best, one)
        close = lead is not None and self.is_share and lead[2] <= AS_GOOD
        return one is self.best or (close and self.comparable(one, self.best))

    def open(self) -> list[Depth]:
        """Return the depths that are faster than the best and neither shown to be as good nor shown
        to be worse."""
        return [
            depth
            for depth in self.depths
            if depth.epoch_seconds < self.best.epoch_seconds
            and not self.is_as_good(depth)
            and not self.is_better(self.best, depth)
        ]

    def needed(self, depth: Depth, count: int) -> int | None:
        """Return how many rows or seeds would show that `depth` is worse than the best, or as good;
        None if no number would. `count`: the rows or seeds behind the current intervals."""
        lead = self.lead(self.best, depth)
        if lead is None:
            return None
        gap, least, most = lead
        found = [more_that_settle(gap, gap - least, count)]
        if self.is_share and gap < AS_GOOD:
            found.append(more_that_settle(AS_GOOD - gap, most - gap, count))
        return min((number for number in found if number is not None), default=None)


def compare_depths(course: Study, validation_rows: int) -> Comparison:
    """Compare the depths of a sweep's trials.

    The recommended depth is the fastest one that is as good as the best, if the trials decide that.
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
    """Return whether the trials of every depth have the same set of values of the other keys."""
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
    """Return the seconds per epoch of the trial's training loop if known. A trial with a worker
    group of its own reports only its total seconds, which are divided by its epochs."""
    return trial.metrics.get(EPOCH_SECONDS, trial.seconds / len(trial.values))


def _interval(
    values: Sequence[float], rows: int, course: Study
) -> tuple[float | None, float | None]:
    """Return the 95 % interval of the mean: for several seeds by Student's t, for one seed by
    Wilson as a share of the rows."""
    mean = statistics.fmean(values)
    if len(values) > 1:
        quantile = _T.get(len(values) - 1, _NORMAL)
        half = quantile * statistics.stdev(values) / math.sqrt(len(values))
        return mean - half, mean + half
    if not _is_share(course):
        return None, None
    return wilson(mean, rows)


def _is_share(course: Study) -> bool:
    """Return whether the metric is a share of rows. A share of tokens does not count: the tokens of
    one row are correlated, so their number does not determine the width of the interval."""
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
