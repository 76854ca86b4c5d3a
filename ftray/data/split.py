"""A stratified, seeded split: a pure function of the labels, the shares and the seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

_DIGITS = 9
"""Of rows that are owed: beyond them there is rounding only."""


def stratify(
    targets: Sequence[str], shares: Mapping[str, float], seed: int
) -> dict[str, np.ndarray]:
    """Row numbers of each split in `shares` and, under "train", of the rest; in rising order.

    Each split takes its share of every label, rounded so that the split as a whole is as large as
    its share says. A row goes first to the labels of which most is owed, this split's rounding and
    that of the splits before it added up: with few rows a label the splits measure different
    labels. The seed decides between labels that are owed the same. Every label keeps at least one
    row in train, so that a label with one row is in train only.
    """
    names = {label: code for code, label in enumerate(sorted(set(targets)))}
    codes = np.array([names[label] for label in targets], dtype=np.int64)
    # Raw bits, because numpy promises the same ones on every platform and in every version.
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
    """The place of each row among the rows of its label, in the order of `draw`."""
    order = np.lexsort((draw, codes))
    starts = np.searchsorted(codes[order], codes[order], side="left")
    ranks = np.empty(len(codes), dtype=np.int64)
    ranks[order] = np.arange(len(codes)) - starts
    return ranks


def _allot(wanted: np.ndarray, owed: np.ndarray, room: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """Rows that a split takes of each label, at most `room`: `wanted` rounded down, and one more
    where most is owed, until the split is as large as all that is wanted.

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
