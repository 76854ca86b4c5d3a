"""What a sweep knows of a trial, and what it has trained next."""

from __future__ import annotations

from dataclasses import dataclass, field

from ftray.tune.searchers import Config


@dataclass(frozen=True)
class TrainUntil:
    """Train `trial` with `config` up to the end of epoch `until`, counted from 1.

    donor: the trial whose checkpoint it goes on from, in place of its own."""

    trial: str
    config: Config
    until: int
    donor: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What a trial came to with a segment. values: after each epoch the best metric so far, the
    higher the better; metrics: of the last epoch; over: there is nothing left to train."""

    values: tuple[float, ...]
    metrics: dict[str, float]
    seconds: float
    over: bool
    error: str = ""


@dataclass(frozen=True)
class TrialState:
    """Where a trial stands. epochs: of the whole trial."""

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
    """After which epoch it last went on from another one's checkpoint; 0 for never."""

    @property
    def value(self) -> float | None:
        """The best metric so far; None for a trial that failed or was never evaluated."""
        return self.values[-1] if self.values and not self.error else None

    @property
    def waits(self) -> bool:
        """Whether it could go on."""
        return not (self.running or self.over or self.error)

    def reached(self, epoch: int) -> bool:
        return not self.error and (len(self.values) >= epoch or self.over)

    def at(self, epoch: int) -> float:
        """The best metric after `epoch` epochs, for a trial that came that far or was over."""
        return self.values[min(epoch, len(self.values)) - 1]
