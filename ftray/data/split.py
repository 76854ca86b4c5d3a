"""Splits rows by label, by group or by time: a pure function of these, the shares and the seed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

import numpy as np

_DIGITS = 9
"""Decimal digits of owed rows; further digits are rounding errors."""


def stratify(targets: np.ndarray, shares: Mapping[str, float], seed: int) -> dict[str, np.ndarray]:
    """Return the row indices of each split in `shares` and, under "train", of the rest, in rising
    order. targets: (rows,), the place of each row's label among the sorted labels.

    Each split takes its share of the rows of every label, rounded so that the size of the split as
    a whole matches its share. Rounding up begins with the labels that are owed most: the fraction
    owed to a label is summed over this split and the splits before it. So with few rows for each
    label, the splits measure different labels. The seed orders labels that are owed the same. Every
    label keeps at least one row in train, so a label with one row is in train only.
    """
    # Draw raw bits: numpy guarantees that they are the same on every platform and in every version.
    bits = np.random.PCG64(seed)
    ranks = _rank_in_label(targets, bits.random_raw(len(targets)))
    counts = np.bincount(targets)
    turns = bits.random_raw(len(counts))
    taken = np.zeros(len(counts), dtype=np.int64)
    owed = np.zeros(len(counts))
    splits = {}
    for name, share in shares.items():
        until = taken + _allot(counts * share, owed, counts - 1 - taken, turns)
        owed += counts * share - (until - taken)
        splits[name] = np.flatnonzero((ranks >= taken[targets]) & (ranks < until[targets]))
        taken = until
    return {"train": np.flatnonzero(ranks >= taken[targets]), **splits}


def _rank_in_label(codes: np.ndarray, draw: np.ndarray) -> np.ndarray:
    """Return the rank of each row among the rows of its label, in the order of `draw`."""
    order = np.lexsort((draw, codes))
    counts = np.bincount(codes)
    ranks = np.empty(len(codes), dtype=np.int64)
    ranks[order] = np.arange(len(codes)) - np.repeat(np.cumsum(counts) - counts, counts)
    return ranks


def _allot(wanted: np.ndarray, owed: np.ndarray, room: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """Return the number of rows that a split takes of each label, at most `room`: `wanted` rounded
    down, and one more for the labels that are owed most, until the size of the split is the rounded
    sum of `wanted`.

    wanted, owed: (labels,) float64 rows; room: (labels,) int64 rows; turns: (labels,) uint64, the
    order of labels that are owed the same
    """
    taken = np.minimum(np.floor(wanted).astype(np.int64), room)
    missing = round(wanted.sum()) - taken.sum()
    due = np.round(owed + wanted - taken, _DIGITS)
    for index in np.lexsort((turns, -due)):
        if missing > 0 and taken[index] < room[index]:
            taken[index] += 1
            missing -= 1
    return taken


def by_group(groups: np.ndarray, shares: Mapping[str, float], seed: int) -> dict[str, np.ndarray]:
    """Return the row indices of each split as `stratify` does, with all rows of a group in one
    split. Groups are drawn in an order that the seed tells; a split takes groups as long as they
    bring its size nearer to its share. At least one group stays in train. groups: (rows,),
    the place of each row's group among the sorted groups."""
    sizes = np.bincount(groups)
    order = np.argsort(np.random.PCG64(seed).random_raw(len(sizes)), kind="stable").tolist()
    names, left = ("train", *shares), len(order)
    assigned = np.zeros(len(sizes), dtype=np.int8)
    for number, share in enumerate(shares.values(), 1):
        wanted, taken = share * len(groups), 0
        for group in order:
            nearer = abs(wanted - taken - sizes[group]) < abs(wanted - taken)
            if nearer and left > 1 and not assigned[group]:
                assigned[group] = number
                taken += sizes[group]
                left -= 1
    own = assigned[groups]
    return {name: np.flatnonzero(own == number) for number, name in enumerate(names)}


def by_time(times: np.ndarray, shares: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Return the row indices of each split as `stratify` does: of the shares in their order, the
    last holds the latest rows, the one before it the rows before them, train the earliest. Rows of
    the same time stay in one split, the later one."""
    order, end = np.argsort(times, kind="stable"), len(times)
    ranked = times[order]
    splits: dict[str, np.ndarray] = {}
    for name, share in reversed(list(shares.items())):
        start = max(0, end - round(share * len(times)))
        if 0 < start < end:
            start = int(np.searchsorted(ranked[:end], ranked[start], side="left"))
        splits[name] = np.sort(order[start:end])
        end = start
    splits["train"] = np.sort(order[:end])
    return {name: splits[name] for name in ("train", *shares)}


def by_part(parts: np.ndarray, shares: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Return the row indices of each split. parts: (rows,), 0 for train, else the place of a share,
    counted from 1."""
    return {name: np.flatnonzero(parts == place) for place, name in enumerate(("train", *shares))}


def moment(value: Any) -> float:
    """Return a time as a number: of a number itself, of a date or an ISO 8601 text its seconds.
    Raises ValueError for anything else."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            value = datetime.fromisoformat(value.strip())
        else:
            if math.isfinite(number):
                return number
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if not isinstance(value, datetime):
        raise ValueError(f"no time: {value!r}"[:80])
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
