"""The state of a trial in a sweep, the next segment to train, and the outcome of a segment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ftray.tune.searchers import Config


@dataclass(frozen=True)
class TrainUntil:
    """A segment: train `trial` with `config` up to the end of epoch `until`, counted from 1.

    donor: the trial from whose checkpoint the segment starts, instead of the trial's own."""

    trial: str
    config: Config
    until: int
    donor: str | None = None


@dataclass(frozen=True)
class Outcome:
    """The outcome of a segment. values: the best metric so far after each epoch, higher is better;
    metrics: those of the last epoch; over: whether the trial has nothing left to train."""

    values: tuple[float, ...]
    metrics: dict[str, float]
    seconds: float
    over: bool
    error: str = ""


@dataclass(frozen=True)
class TrialState:
    """The state of a trial. epochs: the number of epochs of the whole trial; values, metrics and
    over: as in Outcome."""

    trial: str
    config: Config
    epochs: int
    values: tuple[float, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    running: bool = False
    over: bool = False
    error: str = ""
    cloned: int = 0
    """The epoch after which the trial was last cloned from another trial's checkpoint; 0 if
    never."""

    @property
    def value(self) -> float | None:
        """Return the best metric so far; None for a trial that failed or was never evaluated."""
        return self.values[-1] if self.values and not self.error else None

    @property
    def status(self) -> str:
        """Return one of: done, stopped (by the scheduler or a budget), failed."""
        return "failed" if self.error else "done" if self.over else "stopped"

    def to_json(self) -> dict[str, Any]:
        """Return the trial's row in the table of a sweep."""
        row = {
            "id": self.trial,
            "config": self.config,
            "metrics": {} if self.error else self.metrics,
            "status": self.status,
            "seconds": round(self.seconds, 3),
        }
        return {**row, "error": self.error} if self.error else row

    @property
    def waits(self) -> bool:
        """Return whether the trial could train another segment."""
        return not (self.running or self.over or self.error)

    def reached(self, epoch: int) -> bool:
        return not self.error and (len(self.values) >= epoch or self.over)

    def at(self, epoch: int) -> float:
        """Return the best metric after `epoch` epochs, for a trial that trained as many epochs or
        ended earlier."""
        return self.values[min(epoch, len(self.values)) - 1]
