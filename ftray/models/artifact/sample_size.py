"""How many rows would settle a difference that those at hand leave open."""

from __future__ import annotations

import math

_POWER = 1 + 0.8416 / 1.9600  # quantiles of the normal distribution: 80 % power, two-sided 95 %
MOST = 1_000_000
"""The most rows that anybody is advised to collect."""


def more_that_settle(difference: float, half_width: float, count: int) -> int | None:
    """How many rows (or seeds) tell a difference of that size from zero four times out of five.

    half_width: of the difference's 95 % interval on `count` of them, which narrows with the square
    root of their number. None where more than `MOST` would be needed.
    """
    if not difference:
        return None
    needed = count * (_POWER * half_width / difference) ** 2
    return None if needed > MOST else max(count, math.ceil(needed))


def about(count: int) -> str:
    """A number for people: two significant digits, rounded up."""
    step = 10 ** max(0, len(str(count)) - 2)
    return f"{-(-count // step) * step:,}"
