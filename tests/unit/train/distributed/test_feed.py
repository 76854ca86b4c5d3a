"""Batches that a thread makes ahead of the loop that takes them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from ftray.tasks.features import Batch
from ftray.train.distributed.feed import ahead, feed

CPU = torch.device("cpu")


def batch(number: int) -> Batch:
    return Batch({"input_ids": torch.tensor([number])}, {})


def numbers(batches: Iterator[Batch]) -> list[int]:
    return [int(found.inputs["input_ids"]) for found in batches]


@pytest.mark.parametrize("count", [1, 2, 9])
def test_batches_come_in_order_however_many_are_made_ahead(count: int) -> None:
    assert numbers(ahead(batch, range(5), count)) == [0, 1, 2, 3, 4]


def test_another_thread_makes_the_next_batches_while_one_is_used() -> None:
    made: list[tuple[int, int]] = []

    def make(number: int) -> Batch:
        made.append((number, threading.get_ident()))
        return batch(number)

    found = ahead(make, range(9), 2)
    next(found)
    deadline = time.monotonic() + 30
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [number for number, _ in made] == [0, 1, 2], "no more than two ahead"
    assert threading.get_ident() not in {thread for _, thread in made}


def test_what_goes_wrong_is_raised_where_the_batch_is_asked_for() -> None:
    def make(number: int) -> Batch:
        if number == 1:
            raise OSError("the shard is gone")
        return batch(number)

    found = ahead(make, range(3), 2)
    assert int(next(found).inputs["input_ids"]) == 0
    with pytest.raises(OSError, match="the shard is gone"):
        next(found)


def test_the_thread_ends_with_a_loop_that_breaks_off() -> None:
    before = threading.active_count()
    found = ahead(batch, range(100), 2)
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_on_a_cpu_a_batch_is_made_when_it_is_asked_for() -> None:
    made: list[int] = []

    def make(number: int) -> Batch:
        made.append(number)
        return batch(number)

    found = feed(make, range(3), CPU)
    assert not made
    next(found)
    assert made == [0]
    assert numbers(found) == [1, 2]
