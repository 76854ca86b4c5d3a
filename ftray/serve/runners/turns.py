"""Picks the waiting rows for the next batch: every request has its turn, the oldest one first."""

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

    Every request has its share of them, as far as there is room; what is left goes to those with
    more rows. Among requests the one that waits longest comes first, and within one request rows
    of like size come together.
    """
    of: dict[Hashable, list[int]] = {}
    for place in sorted(range(len(rows)), key=lambda place: rows[place].size):
        of.setdefault(rows[place].request, []).append(place)
    requests = sorted(of.values(), key=lambda places: rows[places[0]].since)
    share = max(1, most // max(1, len(of)))
    due = [place for places in requests for place in places[:share]]
    more = [place for places in requests for place in places[share:]]
    return sorted([*due, *more][:most])
