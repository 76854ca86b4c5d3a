"""The sweep's table: one row a trial, and which row is the best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ftray.spec.schema import Spec
from ftray.train.progress import BEST
from ftray.tune.trial import ERROR

_SHOWN = (BEST, "epoch", "accuracy", "f1_macro", "loss", "train_loss")


@dataclass(frozen=True)
class Trial:
    """One row. `metrics` are of the last epoch, but "best", which is the best epoch's."""

    id: str
    config: dict[str, Any]
    metrics: dict[str, float]
    status: str
    """done, stopped (by the scheduler) or failed."""
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


def trial_row(
    trial_id: str, config: Mapping[str, Any], last: Mapping[str, Any], error: str, spec: Spec
) -> Trial:
    """The row of a trial whose last report was `last`; `error` is how its process ended."""
    problem = last.get(ERROR) or error
    epochs = config.get("train.epochs", spec.train.epochs)
    over = last.get("epoch", 0) >= epochs or spec.train.early_stopping is not None
    return Trial(
        id=trial_id,
        config=dict(config),
        metrics={} if problem else {name: last[name] for name in _SHOWN if name in last},
        status="failed" if problem else "done" if over else "stopped",
        seconds=round(last.get("time_total_s", 0.0), 3),
        error=problem,
    )


def rank(trial: Trial, spec: Spec) -> tuple[bool, float]:
    """Sorts the best trial first and failed ones last."""
    value = trial.metrics.get(BEST, math.inf)
    failed = trial.status == "failed" or not math.isfinite(value)
    return failed, value if spec.train.metric_mode == "min" else -value
