"""A stratified, seeded split: a pure function of the labels, the shares and the seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def stratify(
    targets: Sequence[str], shares: Mapping[str, float], seed: int
) -> dict[str, np.ndarray]:
    """Row numbers of each split in `shares` and, under "train", of the rest; in rising order.

    Each split takes its share of every label, rounded so that the split as a whole is as large as
    its share says. Every label keeps at least one row in train, so that a label with one row is
    in train only.
    """
    names = {label: code for code, label in enumerate(sorted(set(targets)))}
    codes = np.array([names[label] for label in targets], dtype=np.int64)
    # Raw bits, because numpy promises the same ones on every platform and in every version.
    draw = np.random.PCG64(seed).random_raw(len(codes))
    ranks = _rank_in_label(codes, draw)
    counts = np.bincount(codes, minlength=len(names))
    assigned = np.full(len(codes), "train", dtype=object)
    taken = np.zeros(len(names), dtype=np.int64)
    for name, share in shares.items():
        until = taken + _allot(counts, share, counts - 1 - taken)
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


def _allot(counts: np.ndarray, share: float, room: np.ndarray) -> np.ndarray:
    """Rows a split of `share` takes of each label, at most `room`, by largest remainder."""
    wanted = counts * share
    taken = np.minimum(np.floor(wanted).astype(np.int64), room)
    missing = round(wanted.sum()) - taken.sum()
    for index in np.argsort(taken - wanted, kind="stable"):
        if missing > 0 and taken[index] < room[index]:
            taken[index] += 1
            missing -= 1
    return taken
