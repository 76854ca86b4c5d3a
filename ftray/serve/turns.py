"""Picks the waiting rows for the next batch: every request gets its turn, and rows of like size
share a batch where there is a choice."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple


class Waiting(NamedTuple):
    """A row that waits. request: the request it belongs to; since: time of that request's last
    turn, or of its arrival."""

    request: Hashable
    since: float
    size: int


def next_rows(rows: Sequence[Waiting], most: int) -> list[int]:
    """Places of up to `most` rows, rising.

    A request with few rows has them all in the call, and one with more than its share has at least
    one where all requests have room: what is left goes to the rows that are most like that one in
    size. Where more requests wait than have room, it goes to the rows most like the one whose
    request waits longest.
    """
    if len(rows) <= most:
        return list(range(len(rows)))
    of: dict[Hashable, list[int]] = {}
    for place, row in enumerate(rows):
        of.setdefault(row.request, []).append(place)
    share = max(1, most // len(of))
    requests = sorted(of.values(), key=lambda places: rows[places[0]].since)
    large = [places for places in requests if len(places) > share]
    due = [place for places in requests for place in (places[:1] if places in large else places)]
    if len(due) >= most:
        return sorted(_alike(rows, due, most))
    first = large[0][0]
    rest = [place for places in large for place in places[1:]]
    filled = _alike(rows, [first, *rest], most - len(due) + 1)
    return sorted({*due, *filled})


def _alike(rows: Sequence[Waiting], places: Sequence[int], count: int) -> list[int]:
    """`count` of the places, the first one among them, whose sizes lie closest together."""
    order = sorted(places, key=lambda place: rows[place].size)
    if len(order) <= count:
        return order
    first = order.index(places[0])
    starts = range(max(0, first - count + 1), min(first, len(order) - count) + 1)
    start = min(starts, key=lambda s: rows[order[s + count - 1]].size - rows[order[s]].size)
    return order[start : start + count]
