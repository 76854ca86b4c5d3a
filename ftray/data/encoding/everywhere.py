"""Runs a function over a stream of items in Ray tasks, a few at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from ftray.errors import RunFailed, find

T = TypeVar("T")
R = TypeVar("R")

_PER_CPU = 2
"""Tasks for each CPU that run or wait: one to compute, and one whose input is there already."""


def map_everywhere(
    function: Callable[[T], R], items: Iterable[T], at_once: int | None = None
) -> Iterator[R]:
    """Yield what `function` returns for each item, in order, from Ray tasks on the whole cluster.
    `items` are made as tasks end: `at_once` tasks run or wait at a time, by default two for each
    CPU that the cluster has then. Raises a task's FtrayError, and RunFailed where Ray fails."""
    import ray
    from ray.exceptions import RayError

    call, shared = ray.remote(_called), ray.put(function)
    waiting: deque[Any] = deque()
    try:
        for item in items:
            waiting.append(call.remote(shared, item))
            most = at_once or _PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 0)))
            while len(waiting) >= most:
                yield ray.get(waiting.popleft())
        while waiting:
            yield ray.get(waiting.popleft())
    except RayError as error:
        if known := find(error):
            raise known from None
        problem = f"encoding failed: {error}"
        raise RunFailed.of("data", None, problem, "see the log of the Ray task") from error
    finally:
        for task in waiting:
            ray.cancel(task)


def _called(function: Callable[[T], R], item: T) -> R:
    return function(item)
