"""Splits rows with stratification: a pure function of the labels, the shares and the seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

_DIGITS = 9
"""Decimal digits of owed rows; further digits are rounding errors."""


def stratify(
    targets: Sequence[str], shares: Mapping[str, float], seed: int
) -> dict[str, np.ndarray]:
    """Return the row indices of each split in `shares` and, under "train", of the rest, in rising
    order.

    Each split takes its share of the rows of every label, rounded so that the size of the split as
    a whole matches its share. Rounding up begins with the labels that are owed most: the fraction
    owed to a label is summed over this split and the splits before it. So with few rows for each
    label, the splits measure different labels. The seed orders labels that are owed the same. Every
    label keeps at least one row in train, so a label with one row is in train only.
    """
    names = {label: code for code, label in enumerate(sorted(set(targets)))}
    codes = np.array([names[label] for label in targets], dtype=np.int64)
    # Draw raw bits: numpy guarantees that they are the same on every platform and in every version.
    bits = np.random.PCG64(seed)
    ranks = _rank_in_label(codes, bits.random_raw(len(codes)))
    turns = bits.random_raw(len(names))
    counts = np.bincount(codes, minlength=len(names))
    assigned = np.full(len(codes), "train", dtype=object)
    taken = np.zeros(len(names), dtype=np.int64)
    owed = np.zeros(len(names))
    for name, share in shares.items():
        until = taken + _allot(counts * share, owed, counts - 1 - taken, turns)
        owed += counts * share - (until - taken)
        assigned[(ranks >= taken[codes]) & (ranks < until[codes])] = name
        taken = until
    return {name: np.flatnonzero(assigned == name) for name in ("train", *shares)}


def _rank_in_label(codes: np.ndarray, draw: np.ndarray) -> np.ndarray:
    """Return the rank of each row among the rows of its label, in the order of `draw`."""
    order = np.lexsort((draw, codes))
    starts = np.searchsorted(codes[order], codes[order], side="left")
    ranks = np.empty(len(codes), dtype=np.int64)
    ranks[order] = np.arange(len(codes)) - starts
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
