"""Ranks that meet in shared memory; here they are threads of one process."""

from __future__ import annotations

import mmap
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from ftray.train.meeting import Meeting

WORLD = 3


def together(work: Callable[[Meeting, int], Any]) -> list[Any]:
    """What `work` returns on each rank."""
    memory = mmap.mmap(-1, 1 << 20)
    meetings = [Meeting(memory, rank, WORLD) for rank in range(WORLD)]
    with ThreadPoolExecutor(WORLD) as pool:
        return list(pool.map(work, meetings, range(WORLD)))


def test_nobody_goes_on_before_all_are_there() -> None:
    came: list[float] = []

    def work(meeting: Meeting, rank: int) -> float:
        time.sleep(0.05 * rank)
        came.append(time.perf_counter())
        meeting.wait()
        return time.perf_counter()

    left = together(work)
    assert min(left) >= max(came)


def test_sums_are_those_of_the_same_round_however_far_the_others_are() -> None:
    rounds = 200

    def work(meeting: Meeting, rank: int) -> list[np.ndarray]:
        source, found = random.Random(rank), []
        for number in range(rounds):
            if source.random() < 0.02:
                time.sleep(0.002)
            sum_ = meeting.sum(np.array([[rank, number], [1.0, rank * number]]))
            assert sum_ is not None
            found.append(sum_)
            if number % 3 == 0:
                meeting.wait()
        return found

    for found in together(work):
        for number in range(rounds):
            assert found[number].tolist() == [[3, 3 * number], [3, 3 * number]]


def test_the_sum_has_the_order_of_the_ranks() -> None:
    values = np.array([1e16, 1.0, -1e16])
    found = together(lambda meeting, rank: meeting.sum(values[rank : rank + 1]))
    assert [float(total[0]) for total in found] == [(1e16 + 1.0) - 1e16] * WORLD


def test_what_is_no_number_reaches_all() -> None:
    found = together(lambda meeting, rank: meeting.sum(np.array([np.nan if rank else 1.0])))
    assert all(np.isnan(total[0]) for total in found)


@pytest.mark.parametrize(("size", "fits"), [(4096, True), (4097, False)])
def test_too_large_a_sum_is_left_to_the_network(size: int, fits: bool) -> None:
    found = together(lambda meeting, rank: meeting.sum(np.zeros(size)))
    assert [total is not None for total in found] == [fits] * WORLD
