"""Splits rows into forward passes, so that the total cost of padding and passes is lowest."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

_REPEATS = 3
Row = TypeVar("Row")


@dataclass(frozen=True)
class PassCost:
    """Fixed cost of a forward pass, beyond the cost of its tokens. tokens: the number of tokens
    whose computation takes as long. The default is so high that `plan` makes as few passes as it
    can."""

    seconds: float = 3600.0
    tokens: float = 1e9
    packs: bool = False
    """Whether rows of any lengths share a pass without padding."""


_MOST_OVERHEAD = 1 / 16
"""Share of a pass's cost that its fixed cost may have, where rows need no padding. Larger passes
would answer their first rows later."""


def plan(lengths: Sequence[int], most: int, cost: PassCost) -> list[list[int]]:
    """Split rows of these lengths, in tokens, into passes of at most `most` rows with the lowest
    total cost: every row is padded to the longest row of its pass, and every pass has a fixed cost.
    Return the indices of each pass's rows; short rows come first.

    Rows that need no padding stay in their order, in passes of about as many tokens each."""
    if cost.packs:
        return _of_equal_cost(lengths, most, cost.tokens / _MOST_OVERHEAD)
    order = sorted(range(len(lengths)), key=lambda place: lengths[place])
    # Indexed by the number of shortest rows: their lowest cost in tokens, and the start of the last
    # pass at this cost.
    least, begins = [0.0], [0]
    for stop, place in enumerate(order, 1):
        totals = [
            (least[start] + cost.tokens + lengths[place] * (stop - start), start)
            for start in range(max(0, stop - most), stop)
        ]
        total, begin = min(totals)
        least.append(total)
        begins.append(begin)
    passes: list[list[int]] = []
    stop = len(order)
    while stop:
        passes.insert(0, order[begins[stop] : stop])
        stop = begins[stop]
    return passes


def _of_equal_cost(lengths: Sequence[int], most: int, size: float) -> list[list[int]]:
    """Split rows into passes of about as many tokens each, close to `size`."""
    share = sum(lengths) / max(1, round(sum(lengths) / max(1.0, size)))
    passes: list[list[int]] = []
    tokens = 0.0
    for place, length in enumerate(lengths):
        # A row joins a pass where its middle lies within the pass's share.
        if not passes or len(passes[-1]) == most or tokens + length / 2 > share:
            passes.append([])
            tokens = 0.0
        passes[-1].append(place)
        tokens += length
    return passes


def measure_cost(
    compute: Callable[[Row], object], rows: tuple[Row, Row], costs: tuple[int, int]
) -> PassCost:
    """Measure the fixed cost from the times of a short row and a long one. compute: makes a forward
    pass of one row; costs: of the rows, in tokens. Returns the default where the longer row takes
    no more time, as on most GPUs."""
    brief, full = (_seconds(compute, row) for row in rows)
    of_token = (full - brief) / (costs[1] - costs[0])
    if of_token <= 0:
        return PassCost()
    seconds = max(0.0, brief - of_token * costs[0])
    return PassCost(seconds, seconds / of_token)


def _seconds(compute: Callable[[Row], object], row: Row) -> float:
    """Return the shortest time of several runs: other processes disturbed this run least."""
    compute(row)
    tries = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        compute(row)
        tries.append(time.perf_counter() - began)
    return min(tries)
