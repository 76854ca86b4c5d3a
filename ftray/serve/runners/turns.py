"""Picks the waiting rows for the next batch: requests take turns, and the longest waiting request
comes first."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple


class Waiting(NamedTuple):
    """A row that waits. request: the row's request; since: time of the request's last turn, or of
    its arrival."""

    request: Hashable
    since: float
    size: int


def next_rows(rows: Sequence[Waiting], most: int) -> list[int]:
    """Return the places of up to `most` rows in `rows`, in rising order.

    Every request gets an equal share of the batch, as far as there is room. Requests with more rows
    get the room that is left. The longest waiting request comes first. Within one request, rows of
    similar size come together: the smallest first.
    """
    of: dict[Hashable, list[int]] = {}
    for place in sorted(range(len(rows)), key=lambda place: rows[place].size):
        of.setdefault(rows[place].request, []).append(place)
    requests = sorted(of.values(), key=lambda places: rows[places[0]].since)
    share = max(1, most // max(1, len(of)))
    due = [place for places in requests for place in places[:share]]
    more = [place for places in requests for place in places[share:]]
    return sorted([*due, *more][:most])
