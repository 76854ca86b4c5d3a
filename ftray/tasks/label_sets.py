"""Scores a classifier that gives any number of labels, and finds the thresholds of its scores."""

from __future__ import annotations

import numpy as np

from ftray.tasks.ranking import average_precision, ranked

_FEW = 5
"""Rows that a label must have for a threshold of its own."""


def scores(scored: np.ndarray, truth: np.ndarray, least: np.ndarray) -> dict[str, float]:
    """Return average_precision, f1_micro, f1_macro and exact_match. scored: (rows, C), 0 to 1;
    truth: (rows, C) bool; least: (C,) threshold of each label."""
    given = scored >= least
    right, told, found = ((of).sum(0) for of in (given & truth, truth, given))
    occur = told + found > 0
    each = 2 * right[occur] / (told + found)[occur]
    have = np.flatnonzero(told)
    precisions = [average_precision(scored[:, place], truth[:, place]) for place in have]
    return {
        "average_precision": float(np.mean(precisions)) if len(have) else 0.0,
        "f1_micro": float(2 * right.sum() / max(1, told.sum() + found.sum())),
        "f1_macro": float(each.mean()) if occur.any() else 0.0,
        "exact_match": float((given == truth).all(1).mean()),
    }


def thresholds(scored: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the threshold of each label with the highest F1 on these rows, (C,) float64. A label
    with fewer than `_FEW` rows has the threshold that is best for all labels together.

    scored: (rows, C), 0 to 1; truth: (rows, C) bool.
    """
    together = _best(scored.ravel(), truth.ravel())
    return np.array(
        [
            _best(scored[:, place], truth[:, place]) if count >= _FEW else together
            for place, count in enumerate(truth.sum(0))
        ]
    )


def _best(scored: np.ndarray, truth: np.ndarray) -> float:
    """Return the threshold with the highest F1: halfway to the next lower score."""
    if not truth.any():
        return 0.5
    values, rows, right = ranked(scored.astype(np.float64), truth)
    place = int(np.argmax(2 * right / (rows + right[-1])))
    below = values[place + 1] if place + 1 < len(values) else 0.0
    return float((values[place] + below) / 2)
