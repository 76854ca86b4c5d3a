"""Estimates how far a share of rows may be off, and the number of rows that would settle a
difference which the present rows leave open."""

from __future__ import annotations

import math

_POWER = 1 + 0.8416 / 1.9600  # quantiles of the normal distribution: 80 % power, two-sided 95 %
MOST = 1_000_000
"""Most rows that ftray advises users to collect."""


_NORMAL = 1.96
"""Two-sided 95 % quantile of the normal distribution."""


def wilson(share: float, rows: float) -> tuple[float, float]:
    """Return the 95 % interval of a share of `rows` rows (Wilson 1927); 0 to 1 of no rows."""
    if not rows:
        return 0.0, 1.0
    square = _NORMAL**2 / rows
    centre, scale = share + square / 2, 1 + square
    half = math.sqrt(square * (share * (1 - share) + square / 4))
    return (centre - half) / scale, (centre + half) / scale


def more_that_settle(difference: float, half_width: float, count: int) -> int | None:
    """Return the number of rows (or seeds) that tell a difference of that size from zero four times
    out of five; None where more than `MOST` are needed.

    half_width: of the difference's 95 % interval on `count` rows; the interval narrows with the
    square root of the number of rows.
    """
    if not difference:
        return None
    needed = count * (_POWER * half_width / difference) ** 2
    return None if needed > MOST else max(count, math.ceil(needed))


def about(count: int) -> str:
    """Format a number for people: two significant digits, rounded up."""
    step = 10 ** max(0, len(str(count)) - 2)
    return f"{-(-count // step) * step:,}"
