"""Metrics of retrieval by embeddings: at which place the first right text stands."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

BLOCK = 10_000
"""Most rows whose texts are ranked against each other: a larger split is measured in parts."""
_AT_ONCE = 512


def first_places(
    queries: np.ndarray,
    candidates: np.ndarray,
    told: Callable[[slice], tuple[np.ndarray, np.ndarray]],
) -> np.ndarray:
    """Return the place, 1 or more, of the first right candidate of each query; 0 for a query
    without any. Of candidates that are as near, a wrong one comes first.

    queries: (Q, D); candidates: (C, D); told: returns which candidates are right for some of the
    queries, and which do not count, (some, C) bool each.
    """
    places = np.zeros(len(queries), np.int64)
    for start in range(0, len(queries), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        scores, (right, ignored) = queries[part] @ candidates.T, told(part)
        best = np.where(right, scores, -np.inf).max(1, initial=-np.inf)
        before = ((scores >= best[:, None]) & ~right & ~ignored).sum(1)
        places[part] = np.where(right.any(1), before + 1, 0)
    return places


def by_label(embeddings: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return at which place each text finds another one with its label, (E,). embeddings: (E, D);
    labels: (E,)."""
    everyone = np.arange(len(embeddings))

    def told(part: slice) -> tuple[np.ndarray, np.ndarray]:
        itself = everyone[part, None] == everyone
        return (labels[part, None] == labels) & ~itself, itself

    return first_places(embeddings, embeddings, told)


def by_positive(embeddings: np.ndarray, texts: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return at which place each query finds a positive of its own among the positives and the
    negatives of all rows, (R,). A text that is equal to the query does not count.

    embeddings: (R, W, D), of a query, its positive and its negatives; texts, queries: (R * W,),
    equal for equal texts, and for rows of equal queries.
    """
    rows, width, size = embeddings.shape
    texts, queries = texts.reshape(rows, width), queries[::width]
    named = texts[:, 1:].T.ravel()

    def told(part: slice) -> tuple[np.ndarray, np.ndarray]:
        right = named == texts[part, 1, None]
        right[:, :rows] |= queries[part, None] == queries
        return right, (named == texts[part, 0, None]) & ~right

    candidates = embeddings[:, 1:].swapaxes(0, 1).reshape(-1, size)
    return first_places(embeddings[:, 0], candidates, told)


def retrieval(places: np.ndarray) -> dict[str, float]:
    """Return mrr: mean of 1 / place; recall_at_1 and recall_at_10: share of places up to 1 and
    10. Queries without a right candidate do not count."""
    found = places[places > 0]
    if not len(found):
        return {"mrr": 0.0, "recall_at_1": 0.0, "recall_at_10": 0.0}
    return {
        "mrr": float((1 / found).mean()),
        "recall_at_1": float((found <= 1).mean()),
        "recall_at_10": float((found <= 10).mean()),
    }
