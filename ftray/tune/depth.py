"""What depth buys: the trials of a sweep by how many blocks they trained."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ftray.train.progress import BEST, EPOCH_SECONDS, MEMORY
from ftray.tune.course import Course
from ftray.tune.standing import Standing

KEY = "train.unfreeze"
# Two-sided 95 % quantiles of Student's t by degrees of freedom, and of the normal distribution.
_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
_NORMAL = 1.96


@dataclass(frozen=True)
class Depth:
    """One depth: `metric` is that of its best trial, low to high its 95 % interval, over that
    trial's seeds or else as a share of the validation rows (None for a loss with one seed)."""

    unfreeze: Any
    trials: int
    metric: float
    low: float | None
    high: float | None
    epoch_seconds: float
    """Median over the trials."""
    memory: int | None
    """Bytes that a trial's process held at most."""
    worker_hours: float
    cost: float | None
    pareto: bool = False
    """No other depth is both as good and as fast."""
    recommended: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def depths(course: Course, validation_rows: int) -> tuple[Depth, ...]:
    """By time, fastest first; empty where the space has fewer than two depths.

    Recommended is the fastest that is within one standard error of the best (the rule of Breiman
    et al. 1984 for the size of a tree)."""
    by_depth: dict[str, list[Standing]] = {}
    for trial in course.ranking():
        if KEY in trial.config and math.isfinite(course.mean(trial)):
            by_depth.setdefault(str(trial.config[KEY]), []).append(trial)
    if len(by_depth) < 2:
        return ()
    found = [_depth(course, trials, validation_rows) for trials in by_depth.values()]
    found.sort(key=lambda depth: depth.epoch_seconds)
    sign = _sign(course)
    best = max(found, key=lambda depth: sign * depth.metric)
    error = (best.metric - best.low) / _NORMAL if best.low is not None else 0.0
    close = [depth for depth in found if sign * (best.metric - depth.metric) <= error]
    return tuple(
        replace(depth, pareto=_is_pareto(depth, found, sign), recommended=depth is close[0])
        for depth in found
    )


def _depth(course: Course, trials: Sequence[Standing], rows: int) -> Depth:
    best = trials[0]
    seeds = course.seeds_of(best)
    metric = _sign(course) * course.mean(best)
    low, high = _interval([t.metrics[BEST] for t in seeds if t.value is not None], rows, course)
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
        epoch_seconds=statistics.median(map(_epoch_seconds, trials)),
        memory=max(held, default=None),
        worker_hours=hours,
        cost=None if price is None else hours * price,
    )


def _epoch_seconds(trial: Standing) -> float:
    """Of its training loop, where that is known: trials with workers of their own tell only how
    long they took in all."""
    return trial.metrics.get(EPOCH_SECONDS, trial.seconds / len(trial.values))


def _interval(
    values: Sequence[float], rows: int, course: Course
) -> tuple[float | None, float | None]:
    """Of several seeds by Student's t; of one, as a share of the rows, by Wilson (1927)."""
    mean = statistics.fmean(values)
    if len(values) > 1:
        quantile = _T.get(len(values) - 1, _NORMAL)
        half = quantile * statistics.stdev(values) / math.sqrt(len(values))
        return mean - half, mean + half
    # Of a mean over tokens nothing says how far it is off: those of one row are alike.
    if course.spec.train.metric_mode == "min" or course.spec.task == "text-generation":
        return None, None
    square = _NORMAL**2 / rows
    centre, scale = mean + square / 2, 1 + square
    half = math.sqrt(square * (mean * (1 - mean) + square / 4))
    return (centre - half) / scale, (centre + half) / scale


def _is_pareto(depth: Depth, others: Sequence[Depth], sign: float) -> bool:
    return not any(
        sign * other.metric >= sign * depth.metric
        and other.epoch_seconds <= depth.epoch_seconds
        and (other.metric, other.epoch_seconds) != (depth.metric, depth.epoch_seconds)
        for other in others
    )


def _sign(course: Course) -> float:
    return -1.0 if course.spec.train.metric_mode == "min" else 1.0
