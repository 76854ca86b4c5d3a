"""The phases of a step: on the host's clock, and on events of a GPU that runs behind the host."""

from __future__ import annotations

import pytest
import torch

from ftray.train.engine.step_timer import StepTimer


class Ticking:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def mark(self) -> float:
        return self.now

    def seconds(self, begin: float, end: float) -> float:
        return end - begin


def test_phases_add_up_and_a_phase_within_another_interrupts_it() -> None:
    clock = Ticking()
    timer = StepTimer(clock)
    for _ in range(2):
        clock.now += 100  # between phases: of none
        with timer("forward"):
            clock.now += 1
        with timer("backward"):
            clock.now += 2
            with timer("reduce"):
                clock.now += 4
            clock.now += 8
    assert timer.taken() == {"forward": 2, "backward": 20, "reduce": 8}
    assert timer.taken() == {}


def test_an_error_ends_a_phase() -> None:
    clock = Ticking()
    timer = StepTimer(clock)
    with pytest.raises(OSError, match="the disk"), timer("backward"), timer("reduce"):
        clock.now += 1
        raise OSError("the disk")
    clock.now += 10
    assert timer.taken() == {"backward": 0, "reduce": 1}


class Gpu:
    """A stream that computes only while a test lets it. Its events have no `synchronize`: waiting
    for them is an error."""

    def __init__(self) -> None:
        self.queued: list[float | Event] = []
        self.now = 0.0

    def finish(self, count: int | None = None) -> None:
        """Compute the next `count` things in the queue."""
        count = len(self.queued) if count is None else count
        for thing in self.queued[:count]:
            if isinstance(thing, Event):
                thing.at = self.now
            else:
                self.now += thing
        del self.queued[:count]


class Event:
    gpu: Gpu

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing
        self.at: float | None = None

    def record(self) -> None:
        self.gpu.queued.append(self)

    def query(self) -> bool:
        return self.at is not None

    def elapsed_time(self, end: Event) -> float:
        assert self.at is not None and end.at is not None, "CUDA raises here"
        return 1000 * (end.at - self.at)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    Event.gpu = Gpu()
    monkeypatch.setattr(torch.cuda, "Event", Event)
    return Event.gpu


def test_a_gpu_tells_its_own_seconds_and_what_is_under_way_counts_later(gpu: Gpu) -> None:
    timer = StepTimer.on(torch.device("cuda", 0))
    with timer("forward"):
        gpu.queued.append(3.0)
    with timer("backward"):
        gpu.queued.append(5.0)
    assert timer.taken() == {}, "the GPU has not begun"
    gpu.finish()  # the one point of a step where the host waits
    with timer("update"):
        gpu.queued.append(7.0)
    assert timer.taken() == {"forward": 3, "backward": 5}
    gpu.finish(2)  # the event before the update, and the update
    assert timer.taken() == {}
    with timer("data"):
        gpu.queued.append(0.5)
    gpu.finish()
    assert timer.taken() == {"update": 7, "data": 0.5}
