"""Feeds batches to the training loop.

Where a GPU trains, a thread makes batches ahead and pins their memory, so that the host does not
wait for the copy to the GPU.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from ftray.tasks.features import Batch

T = TypeVar("T")

_AHEAD = 2
"""Number of batches that the thread makes ahead of the GPU."""


def feed(make: Callable[[T], Batch], orders: Iterable[T], device: torch.device) -> Iterator[Batch]:
    """Yield the batch that `make` returns for each of `orders`, in order. On a CPU, where all
    cores train, each batch is made when the loop requests it."""
    if device.type == "cpu":
        return map(make, orders)
    return ahead(lambda order: make(order).pinned(), orders, _AHEAD)


def ahead(make: Callable[[T], Batch], orders: Iterable[T], count: int) -> Iterator[Batch]:
    """Yield the batch that `make` returns for each of `orders`, in order; a thread makes `count`
    batches ahead. An exception of `make` is raised when the loop requests its batch."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="ftray-batches")
    waiting: deque[Future[Batch]] = deque()
    try:
        for order in orders:
            waiting.append(pool.submit(make, order))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
