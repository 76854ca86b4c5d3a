"""Shows the progress of a run or a sweep to a person, from its events."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Self

from ftray.cli.display.live import LiveLine
from ftray.cli.display.sweep_progress import SweepProgress
from ftray.cli.display.table import duration, fitting, headline

_BASELINES = {
    "majority": "majority label",
    "mean": "mean",
    "probe": "linear probe",
    "boosting": "gradient boosting",
    "base": "base model",
}
_RATE_STEPS = 20  # samples/s is the mean over this many steps


class RunDisplay:
    """Shows the events of one run on stderr."""

    def __init__(self, log_every: int, line: LiveLine | None = None) -> None:
        """log_every: steps between two lines where there is no terminal."""
        self._line = line or LiveLine()
        self._log_every = log_every
        self._sweep: SweepProgress | None = None
        self._steps = self._epoch_at = self._best_epoch = 0
        self._saving = False
        self._best: float | None = None
        self._last: dict[str, Any] = {}
        self._recent: list[tuple[int, float]] = []

    def __enter__(self) -> Self:
        self._line.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._line.__exit__(*error)

    @property
    def width(self) -> int:
        """Columns that a line may take."""
        return self._line.width

    def say(self, line: str) -> None:
        self._line.say(line)

    def stage(self, name: str, at_once: bool = True) -> None:
        """Begin the stage `name`: reading, starting Ray, encoding …; see `LiveLine.stage`."""
        if 0 < self._best_epoch < self._epoch_at:
            self.say(f"epoch {self._best_epoch} was the best: the model kept is that of its end")
        self._best_epoch = 0
        self._line.stage(name, at_once=at_once)

    def acknowledge(self, line: str) -> None:
        """Say at once what a signal does, as the process may end right after it."""
        self._line.interject(line)

    def listen(self, event: dict[str, Any]) -> None:
        """Show one event; each kind of event that a person is to see has its method below."""
        show = getattr(self, f"_{event['kind']}", None)
        if show is not None:
            show(event)

    def _stage(self, event: dict[str, Any]) -> None:
        self.stage(event["name"])

    def _stopping(self, event: dict[str, Any]) -> None:
        self._saving = True
        self.stage("saving a checkpoint")

    def _note(self, event: dict[str, Any]) -> None:
        self.say(event["message"])

    def _plan(self, event: dict[str, Any]) -> None:
        self._sweep = SweepProgress(event, time.monotonic)
        self._line.stage("sweep", self._sweep.parts)

    def _trial(self, event: dict[str, Any]) -> None:
        if self._sweep is not None and (line := self._sweep.take(event)):
            self.say(line)

    def _trial_step(self, event: dict[str, Any]) -> None:
        if self._sweep is not None:
            self._sweep.step(event)

    def _baseline(self, event: dict[str, Any]) -> None:
        self.say(
            f"without training, on {event['rows']:,} validation rows ({event['seconds']:.1f} s):"
        )
        for key, name in _BASELINES.items():
            if key in event:
                self.say(f"  {name:14}  {headline(event[key])}")

    def _start(self, event: dict[str, Any]) -> None:
        trainable, total = event["trainable_parameters"], event["total_parameters"]
        self.say(f"training {trainable:,} of {total:,} parameters ({trainable / total:.1%})")
        group = f"workers: {event['workers']}, nodes: {event['nodes']}"
        self.say(f"in {event['precision']}; {group}; {event['steps']:,} steps")
        if event["trunk"]:
            self.say(f"the lowest {event['trunk']} blocks are read from the trunk cache")
        if event["step"]:
            self.say(f"resumed after step {event['step']}, in epoch {event['epoch'] + 1}")
        self._steps, self._last = event["steps"], {"step": event["step"]}
        self._line.stage("training", self._progress)

    def _phase(self, event: dict[str, Any]) -> None:
        trainable, total = event["trainable_parameters"], event["total_parameters"]
        self.say(
            f"epoch {event['epoch'] + 1} trains {trainable:,} parameters ({trainable / total:.1%})"
        )

    def _hang(self, event: dict[str, Any]) -> None:
        self.say(f"rank {event['rank']} makes no progress")

    def _warning(self, event: dict[str, Any]) -> None:
        self.say(f"warning: {event['message']}")

    def _step(self, event: dict[str, Any]) -> None:
        self._last = event
        self._recent = [*self._recent, (event["rows"], event["seconds"])][-_RATE_STEPS:]
        if not self._saving:
            self._line.stage("training", self._progress)
        if not self._line.moves and event["step"] % self._log_every == 0:
            self.say("  ".join(part for part in self._progress() if part))

    def _epoch(self, event: dict[str, Any]) -> None:
        rate = self._samples_per_second()
        self._epoch_at = event["epoch"]
        if event["best"] != self._best:
            self._best, self._best_epoch = event["best"], event["epoch"]
        self.say(
            fitting(
                [
                    f"epoch {event['epoch']}",
                    f"loss {event['train_loss']:.4f}, validation {event['loss']:.4f}",
                    headline(event, but="loss"),
                    f"step {event['step']}",
                    f"{rate:,.0f} samples/s" if rate else "",
                ],
                self._line.width,
            )
        )

    def _progress(self) -> Sequence[str]:
        step = self._last.get("step", 0)
        if "loss" not in self._last:
            return [f"step {step}/{self._steps}"]
        seconds = [seconds for _, seconds in self._recent]
        left = (self._steps - step) * sum(seconds) / len(seconds)
        return [
            f"step {step}/{self._steps}",
            f"loss {self._last['loss']:.4f}",
            f"{self._samples_per_second():,.0f} samples/s",
            f"ETA {duration(left)}",
            f"learning rate {self._last['learning_rate']:.1e}",
        ]

    def _samples_per_second(self) -> float:
        seconds = sum(seconds for _, seconds in self._recent)
        return sum(rows for rows, _ in self._recent) / seconds if seconds else 0.0
