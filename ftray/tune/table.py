"""The sweep's table: one row a trial."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ftray.tune.study import Study
from ftray.tune.trial_state import TrialState


@dataclass(frozen=True)
class Trial:
    """One row. `metrics` are of the last epoch, but "best", which is the best epoch's."""

    id: str
    config: dict[str, Any]
    metrics: dict[str, float]
    status: str
    """done, stopped (by the scheduler, or a budget) or failed."""
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
    """Best first; under a finalist itself with other seeds."""
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
