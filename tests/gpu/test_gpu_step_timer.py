"""The phases of a step on a real GPU, timed without waiting for it. Skips itself without one."""

from __future__ import annotations

import time

import pytest
import torch

from ftray.train.engine.step_timer import StepTimer
from ftray.train.memory.hardware import peak_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

DEVICE = torch.device("cuda", 0)


def test_phases_have_the_seconds_of_the_gpu_and_the_host_does_not_wait() -> None:
    timer = StepTimer.on(DEVICE)
    matrix = torch.ones(4096, 4096, device=DEVICE)
    _ = matrix @ matrix  # the first one sets up libraries
    torch.cuda.synchronize()
    started = time.perf_counter()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with timer("forward"):
            for _ in range(20):
                _ = matrix @ matrix
        with timer("backward"):
            for _ in range(40):
                _ = matrix @ matrix
        early = timer.taken()
        queued = time.perf_counter() - started
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    whole = time.perf_counter() - started
    late = timer.taken()
    spent = {phase: early.get(phase, 0.0) + late.get(phase, 0.0) for phase in (*early, *late)}
    assert queued < whole / 2, "the host runs ahead"
    assert sum(spent.values()) == pytest.approx(whole, rel=0.2)
    assert spent["backward"] == pytest.approx(2 * spent["forward"], rel=0.2)


def test_the_peak_is_known_by_name_or_not_at_all() -> None:
    peak = peak_of(DEVICE)
    assert peak is None or 1e13 < peak < 1e16
