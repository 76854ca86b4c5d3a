"""Whether a version on trial does as well as the current one: counts, and a verdict."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

_REMEMBERED = 1000
_ENOUGH = 50
"""Answers of each version before their times are compared."""
_FAILURES = 3
_MORE_FAILURES = 0.05
_SLOWER, _SLOWER_S = 2.0, 0.02


@dataclass
class _Side:
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    answered: int = 0
    failed: int = 0

    @property
    def failing(self) -> float:
        """The share of requests that failed."""
        return self.failed / max(1, self.answered + self.failed)

    @property
    def p95(self) -> float:
        ranked = sorted(self.seconds)
        return ranked[int(0.95 * (len(ranked) - 1))]


class Judge:
    """Of one trial. Times are those of single requests, in seconds."""

    def __init__(self) -> None:
        self._sides = {False: _Side(), True: _Side()}

    def answered(self, on_trial: bool, seconds: float) -> None:
        side = self._sides[on_trial]
        side.answered += 1
        side.seconds.append(seconds)

    def failed(self, on_trial: bool) -> None:
        self._sides[on_trial].failed += 1

    def verdict(self) -> str:
        """Why the trial is to end; empty while there is no reason."""
        current, trial = self._sides[False], self._sides[True]
        if trial.failed >= _FAILURES and trial.failing > current.failing + _MORE_FAILURES:
            return f"{trial.failing:.0%} of its requests failed"
        if min(len(current.seconds), len(trial.seconds)) < _ENOUGH:
            return ""
        if trial.p95 > _SLOWER * current.p95 + _SLOWER_S:
            times = f"{1000 * trial.p95:.0f} ms, those of the current version"
            return f"95 % of its answers took up to {times} {1000 * current.p95:.0f} ms"
        return ""
