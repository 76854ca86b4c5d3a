"""Finds duplicates ("twins") by the digests of their keys.

duplicate              a later duplicate with the same label in the same split
conflicting_duplicate  duplicates in one split with different labels; all of them are dropped, since
                       nothing tells which label is right
leaked                 a row with a duplicate in the validation or test split
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

DUPLICATE, CONFLICT, LEAKED = "duplicate", "conflicting_duplicate", "leaked"


class Twins(NamedTuple):
    """Indices of rows. duplicates: rising; first: of each duplicate the row that it repeats;
    conflicts: rising."""

    duplicates: np.ndarray
    first: np.ndarray
    conflicts: np.ndarray

    @classmethod
    def none(cls) -> Twins:
        return cls(*(np.empty(0, np.int64) for _ in range(3)))


def alike(halves: np.ndarray) -> np.ndarray:
    """Return the rows that share half of their key with another row, rising: few, so that only
    their keys are looked at. halves: (rows,) uint64."""
    order = np.argsort(halves)
    ranked = halves[order]
    same = ranked[1:] == ranked[:-1]
    found = np.zeros(len(halves), dtype=bool)
    found[1:] |= same
    found[:-1] |= same
    return np.sort(order[found])


def find_twins(keys: np.ndarray, strata: np.ndarray) -> Twins:
    """Find the duplicates among rows. keys: (rows, 2) uint64, digests of 128 bits; strata: (rows,)
    a number for each label."""
    rows = np.lexsort((np.arange(len(keys)), keys[:, 1], keys[:, 0]))
    starts = np.ones(len(rows), dtype=bool)
    starts[1:] = (keys[rows[1:]] != keys[rows[:-1]]).any(1)
    group = np.cumsum(starts) - 1
    first = rows[starts][group]
    is_conflict = np.zeros(int(starts.sum()), dtype=bool)
    is_conflict[group[strata[rows] != strata[first]]] = True
    conflicts, later = is_conflict[group], ~starts & ~is_conflict[group]
    order = np.argsort(rows[later])
    return Twins(rows[later][order], first[later][order], np.sort(rows[conflicts]))


def are_among(keys: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return whether each key is one of `others`, (rows,) bool. Both: (rows, 2) uint64."""
    found: np.ndarray = np.isin(keys[:, 0], others[:, 0])
    candidates = np.flatnonzero(found)
    near = others[np.isin(others[:, 0], keys[candidates, 0])]
    theirs = set(map(tuple, near.tolist()))
    found[candidates] = [tuple(key) in theirs for key in keys[candidates].tolist()]
    return found
