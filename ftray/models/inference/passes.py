"""Splits rows into forward passes, so that the total cost of padding and passes is lowest."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

_REPEATS = 3
Rows = TypeVar("Rows")


@dataclass(frozen=True)
class PassCost:
    """Fixed cost of a forward pass, beyond the cost of its tokens. tokens: the number of tokens
    whose computation takes as long. The default is so high that `plan` makes as few passes as it
    can."""

    seconds: float = 3600.0
    tokens: float = 1e9
    packed: float | None = None
    """Tokens of the pass in which a token costs least, where rows need no padding: every token of a
    pass is compared with every other, so a pass must not grow. None where rows are padded."""


PACKED = 256
"""`PassCost.packed` before it is measured."""
_PACKED_RANGE = (64.0, 512.0)
"""Limits of `PassCost.packed`, whatever the clock says."""


def plan(lengths: Sequence[int], most: int, cost: PassCost) -> list[list[int]]:
    """Split rows of these lengths, in tokens, into passes of at most `most` rows with the lowest
    total cost: every row is padded to the longest row of its pass, and every pass has a fixed cost.
    Return the indices of each pass's rows; short rows come first.

    Rows that need no padding stay in their order, in passes of about `cost.packed` tokens."""
    if cost.packed is not None:
        return _plan_packed(lengths, most, cost.packed)
    order = np.argsort(lengths, kind="stable")
    longest = np.asarray(lengths)[order]
    # Indexed by the number of shortest rows: their lowest cost in tokens, and the start of the last
    # pass at this cost.
    least, begins = np.zeros(len(order) + 1), np.zeros(len(order) + 1, dtype=np.int64)
    for stop in range(1, len(order) + 1):
        starts = np.arange(max(0, stop - most), stop)
        totals = least[starts] + cost.tokens + longest[stop - 1] * (stop - starts)
        best = totals.argmin()
        least[stop], begins[stop] = totals[best], starts[best]
    passes: list[list[int]] = []
    stop = len(order)
    while stop:
        start = int(begins[stop])
        passes.insert(0, order[start:stop].tolist())
        stop = start
    return passes


def _plan_packed(lengths: Sequence[int], most: int, size: float) -> list[list[int]]:
    """Split rows into passes of about as many tokens each, close to `size`."""
    share = sum(lengths) / max(1, round(sum(lengths) / size))
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


def measure_packed(
    compute: Callable[[Rows], object], batches: Sequence[Rows], costs: Sequence[int]
) -> PassCost:
    """Measure the costs of a pass, of a token, and of a pair of tokens, from the times of three
    passes of few, more and many tokens, all without padding. Arguments as in `measure_cost`."""
    seconds = [_seconds(compute, rows) for rows in batches]
    of_pass, of_token, of_pair = np.linalg.solve(np.vander(costs, 3, increasing=True), seconds)
    if of_token <= 0:
        return PassCost(packed=PACKED)
    fixed = max(0.0, float(of_pass))
    best = (fixed / of_pair) ** 0.5 if of_pair > 0 else math.inf
    return PassCost(fixed, fixed / float(of_token), float(np.clip(best, *_PACKED_RANGE)))


def measure_cost(
    compute: Callable[[Rows], object], batches: Sequence[Rows], costs: Sequence[int]
) -> PassCost:
    """Measure the fixed cost from the times of a short row and a long one. compute: makes a forward
    pass of some rows; costs: of each pass's rows together, in tokens. Returns the default where the
    longer row takes no more time, as on most GPUs."""
    brief, full = (_seconds(compute, rows) for rows in batches)
    of_token = (full - brief) / (costs[1] - costs[0])
    if of_token <= 0:
        return PassCost()
    seconds = max(0.0, brief - of_token * costs[0])
    return PassCost(seconds, seconds / of_token)


def _seconds(compute: Callable[[Rows], object], rows: Rows) -> float:
    """Return the shortest time of several runs: other processes disturbed this run least."""
    compute(rows)
    tries = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        compute(rows)
        tries.append(time.perf_counter() - began)
    return min(tries)
