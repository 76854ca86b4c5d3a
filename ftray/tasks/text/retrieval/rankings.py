"""Metrics of rankings: the passages of each query, ordered by their scores."""

from __future__ import annotations

import numpy as np

_SHOWN = 10
_RELEVANT = 0.5


def ranked(scores: np.ndarray, truth: np.ndarray, queries: np.ndarray) -> dict[str, float]:
    """Return ndcg_at_10 (Järvelin & Kekäläinen 2002), mrr_at_10 and average_precision, the mean
    over queries. All arguments: (rows,), one passage each.

    truth: from 0 to 1; a passage is relevant from a half on. queries: equal for passages of one
    query. A query whose passages all have the same truth does not count; where all queries are
    such, the rows count as passages of one query. Of passages with equal scores, the worse comes
    first.
    """
    groups = [of for of in _groups(scores, truth, queries) if of.min() < of.max()]
    if not groups:
        groups = _groups(scores, truth, np.zeros_like(queries))
    each = np.array([[_ndcg(of), _reciprocal(of), _precision(of)] for of in groups])
    names = ("ndcg_at_10", "mrr_at_10", "average_precision")
    return dict(zip(names, each.mean(0).tolist(), strict=True))


def _groups(scores: np.ndarray, truth: np.ndarray, queries: np.ndarray) -> list[np.ndarray]:
    """Return the truth of the passages of each query, best score first."""
    order = np.lexsort((truth, -scores, queries))
    starts = np.flatnonzero(np.diff(queries[order])) + 1
    return np.split(truth[order].astype(np.float64), starts)


def _ndcg(truth: np.ndarray) -> float:
    weights = 1 / np.log2(np.arange(2, _SHOWN + 2))
    found, best = (of[:_SHOWN] for of in (truth, -np.sort(-truth)))
    ideal = float(best @ weights[: len(best)])
    return float(found @ weights[: len(found)]) / ideal if ideal else 0.0


def _reciprocal(truth: np.ndarray) -> float:
    places = np.flatnonzero(truth[:_SHOWN] >= _RELEVANT)
    return 1 / (1 + int(places[0])) if len(places) else 0.0


def _precision(truth: np.ndarray) -> float:
    places = np.flatnonzero(truth >= _RELEVANT)
    return float((np.arange(1, len(places) + 1) / (places + 1)).mean()) if len(places) else 0.0
