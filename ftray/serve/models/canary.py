"""Decides whether a trial ends: compares the version on trial with the current one by the request
counts of all replicas.

The test may run after every answer, and may end the trial each time, without raising the error
probability: each share lies within its bounds at all times with a probability of 99.5 % (a
confidence sequence: the Bayes factor of a uniform prior against any one share is a martingale, so
Ville's inequality bounds how often the factor ever exceeds 1/0.005; Robbins 1970).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from ftray.store.deployments.reports import Counts, TrialCounts

FEWEST = 20
"""Requests that the version on trial must have had before `verdict` judges it."""
_ERROR = 0.005
_MORE = 0.05
"""Margin by which a share of the version on trial may exceed the current version's share."""
_FAILS_ANYWAY = 0.5
"""Share of failed requests that ends a trial, however often the current version fails."""
_BASELINE = 50
"""Answers of the current version whose times set a replica's limit for slow answers."""
_WAITING = 1000
_SLOWER, _SLOWER_S = 2.0, 0.02


class Tally:
    """Counts of one trial at one replica. Times are in seconds, for single requests. The current
    version's first answers at this replica set the limit for slow answers: a slow machine is slow
    for both versions."""

    def __init__(self, trial: str) -> None:
        self._trial = trial
        self._counts = {False: Counts(), True: Counts()}
        self._baseline: list[float] = []
        self._early: deque[float] = deque(maxlen=_WAITING)
        """Times of the version on trial from before the baseline was complete."""
        self._slow_s = math.inf

    @property
    def counts(self) -> TrialCounts:
        return TrialCounts(id=self._trial, current=self._counts[False], tried=self._counts[True])

    def answered(self, on_trial: bool, seconds: float) -> None:
        self._add(on_trial, answered=1)
        if self._slow_s < math.inf:
            self._time(on_trial, seconds)
        elif on_trial:
            self._early.append(seconds)
        else:
            self._baseline.append(seconds)
            if len(self._baseline) == _BASELINE:
                self._begin_timing()

    def failed(self, on_trial: bool) -> None:
        self._add(on_trial, failed=1)

    def broke_off(self, on_trial: bool) -> None:
        """Count an answer that broke off after its first piece as failed, not as answered."""
        self._add(on_trial, answered=-1, failed=1)

    def _begin_timing(self) -> None:
        p95 = sorted(self._baseline)[int(0.95 * _BASELINE) - 1]
        self._slow_s = _SLOWER * p95 + _SLOWER_S
        for seconds in self._early:
            self._time(True, seconds)
        self._early.clear()

    def _time(self, on_trial: bool, seconds: float) -> None:
        self._add(on_trial, timed=1, slow=int(seconds > self._slow_s))

    def _add(self, on_trial: bool, **more: int) -> None:
        counts = self._counts[on_trial]
        changes = {name: getattr(counts, name) + count for name, count in more.items()}
        self._counts[on_trial] = counts.model_copy(update=changes)


def verdict(current: Counts, tried: Counts) -> str:
    """Return why the trial must end; empty while there is no reason."""
    requests = tried.answered + tried.failed
    if requests < FEWEST:
        return ""
    least, _ = bounds(tried.failed, requests)
    _, most = bounds(current.failed, current.answered + current.failed)
    if least > min(most + _MORE, _FAILS_ANYWAY):
        return f"{tried.failed} of its {requests} requests failed, {_of(current)}"
    least, _ = bounds(tried.slow, tried.timed)
    _, most = bounds(current.slow, current.timed)
    if tried.timed >= FEWEST and least > most + _MORE:
        theirs = f"{current.slow} of {current.timed} of the current version"
        return f"{tried.slow} of {tried.timed} of its answers were slow, {theirs}"
    return ""


def bounds(hits: int, of: int) -> tuple[float, float]:
    """Return the lower and the upper bound of a share, given `hits` hits among `of` requests. The
    bounds hold however often a caller looks."""
    if of == 0:
        return 0.0, 1.0
    misses = of - hits
    # Log of the Bayes factor of a uniform prior against a share p, without the part depending on p.
    prior = math.lgamma(hits + 1) + math.lgamma(misses + 1) - math.lgamma(of + 2)

    def outside(share: float) -> bool:
        likelihood = 0.0
        for count, chance in ((hits, share), (misses, 1 - share)):
            if count:
                likelihood += count * math.log(chance) if chance > 0 else -math.inf
        return prior - likelihood > -math.log(_ERROR)

    seen = hits / of
    return _edge(outside, 0.0, seen), _edge(outside, 1.0, seen)


def _edge(outside: Callable[[float], bool], far: float, near: float) -> float:
    """Find, by bisection, where `outside` changes between the share `near`, which is inside the
    bounds, and `far`, an end of the scale."""
    if not outside(far):
        return far
    for _ in range(40):
        middle = (far + near) / 2
        far, near = (middle, near) if outside(middle) else (far, middle)
    return far


def _of(current: Counts) -> str:
    requests = current.answered + current.failed
    return f"{current.failed} of {requests} of the current version"
