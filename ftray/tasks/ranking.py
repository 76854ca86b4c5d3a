"""Scores rows that a model ranks by how sure it is that they are positive: no threshold is
needed."""

from __future__ import annotations

import numpy as np


def ranked(scored: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the distinct scores, the highest first; and for each the number of rows with at least
    that score, and of those that are true."""
    order = np.argsort(-scored, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scored[order])), len(order) - 1)
    return scored[order][ends], ends + 1, np.cumsum(truth[order])[ends]


def average_precision(scored: np.ndarray, truth: np.ndarray) -> float:
    """Return the sum of the precisions at each threshold, each weighted by the recall that it adds.
    scored: (rows,); truth: (rows,) bool, at least one true."""
    _, rows, right = ranked(scored, truth)
    gained = np.diff(right, prepend=0) / right[-1]
    return float((gained * right / rows).sum())


def _curve(scored: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the false-positive rate and the recall at each threshold, from none to all rows."""
    _, rows, right = ranked(scored, truth)
    wrong = rows - right
    rates = (np.concatenate([[0], of]) / of[-1] for of in (wrong, right))
    return next(rates), next(rates)


def roc_auc(scored: np.ndarray, truth: np.ndarray) -> float:
    """Return the area under the receiver operating characteristic: how often a positive row is
    above a negative one. scored: (rows,); truth: (rows,) bool, some true and some false."""
    return float(np.trapezoid(*_curve(scored, truth)[::-1]))


def recall_at(scored: np.ndarray, truth: np.ndarray, rate: float) -> float:
    """Return the highest recall of a threshold with at most that false-positive rate. scored:
    (rows,); truth: (rows,) bool, some true and some false."""
    false_positives, recall = _curve(scored, truth)
    return float(recall[false_positives <= rate + 1e-12].max())


def cheapest(scored: np.ndarray, truth: np.ndarray, false_alarm: float, miss: float) -> float:
    """Return the threshold of the lowest cost on these rows: halfway to the next lower score.

    scored: (rows,), 0 to 1; truth: (rows,) bool. false_alarm, miss: cost of a negative row above
    the threshold, and of a positive one below it.
    """
    values, rows, right = ranked(scored.astype(np.float64), truth)
    costs = false_alarm * (rows - right) + miss * (right[-1] - right)
    ends = np.concatenate([[1.0], values, [0.0]])
    # With the highest threshold no row is positive: all positive rows are missed.
    place = int(np.argmin(np.concatenate([[miss * right[-1]], costs])))
    return float((ends[place] + ends[place + 1]) / 2)
