"""The table of a sweep, with one row per trial."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ftray.tune.study import Study
from ftray.tune.trial_state import TrialState


@dataclass(frozen=True)
class Trial:
    """One row. `metrics` are those of the last epoch, except "best", the best epoch's value."""

    id: str
    config: dict[str, Any]
    metrics: dict[str, float]
    status: str
    """One of: done, stopped (by the scheduler or a budget), failed."""
    seconds: float
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        row = {
            "id": self.id,
            "config": self.config,
            "metrics": self.metrics,
            "status": self.status,
            "seconds": self.seconds,
        }
        return {**row, "error": self.error} if self.error else row


def rows(course: Study) -> tuple[Trial, ...]:
    """Return the rows, best trial first; repetitions of a finalist with other seeds follow it."""
    return tuple(row(seed) for trial in course.ranking() for seed in course.seeds_of(trial))


def row(trial: TrialState) -> Trial:
    return Trial(
        id=trial.trial,
        config=trial.config,
        metrics={} if trial.error else trial.metrics,
        status="failed" if trial.error else "done" if trial.over else "stopped",
        seconds=round(trial.seconds, 3),
        error=trial.error,
    )
