"""Times the phases of a training step on this rank.

The host runs ahead of a GPU, so its clock says nothing about what the GPU does. There, the borders
of phases are events in the stream in which the GPU computes, and the host reads their times once it
has waited for the GPU anyway.
"""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

import torch

Phase = Literal["data", "forward", "backward", "reduce", "update", "waiting"]
"""data: making a batch and copying it to the device, or waiting for it; forward, backward: the
passes of all micro-batches; reduce: adding up over the ranks what they computed; update: the norm
of the gradients and the optimizer step; waiting: for the loss of the whole batch."""


class Clock(Protocol):
    """Marks moments, and tells the seconds between two of them."""

    def mark(self) -> Any: ...

    def seconds(self, begin: Any, end: Any) -> float | None:
        """Return the seconds from `begin` to `end`; None where `end` is not known to be over. Never
        waits."""


class StepTimer:
    """Adds up the seconds of each phase.

    with timer("backward"): ...

    A phase within another one interrupts it: no moment counts twice.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._phase: Phase | None = None
        self._since: Any = None
        self._spans: list[tuple[Phase, Any, Any]] = []

    @classmethod
    def on(cls, device: torch.device) -> StepTimer:
        """Return a timer of what a device computes."""
        return cls(_Stream() if device.type == "cuda" else _Host())

    def __call__(self, phase: Phase) -> AbstractContextManager[None]:
        return _Within(self, phase)

    def enter(self, phase: Phase | None) -> Phase | None:
        """Begin a phase, and return the one that ends."""
        now, before = self._clock.mark(), self._phase
        if before is not None:
            self._spans.append((before, self._since, now))
        self._phase, self._since = phase, now
        return before

    def taken(self) -> dict[str, float]:
        """Return the seconds of each phase since the last call. What a GPU has not finished counts
        in a later call: its update of the weights in that of the next step."""
        found: dict[str, float] = defaultdict(float)
        unfinished = []
        for span in self._spans:
            phase, begin, end = span
            seconds = self._clock.seconds(begin, end)
            if seconds is None:
                unfinished.append(span)
            else:
                found[phase] += seconds
        self._spans = unfinished
        return {phase: round(seconds, 6) for phase, seconds in found.items()}


class _Within(AbstractContextManager[None]):
    """A phase. A generator would take several times as long, which short steps would show."""

    def __init__(self, timer: StepTimer, phase: Phase) -> None:
        self._timer, self._phase = timer, phase

    def __enter__(self) -> None:
        self._outer = self._timer.enter(self._phase)

    def __exit__(self, *_: object) -> None:
        self._timer.enter(self._outer)


class _Host:
    """The clock of the host, for a device that computes while the host waits."""

    mark = staticmethod(time.perf_counter)

    def seconds(self, begin: float, end: float) -> float:
        return end - begin


class _Stream:
    """Events in the current stream of a GPU."""

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, begin: torch.cuda.Event, end: torch.cuda.Event) -> float | None:
        return begin.elapsed_time(end) / 1000 if end.query() else None
