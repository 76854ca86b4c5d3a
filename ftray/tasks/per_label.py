"""Computes a classifier's scores on each label, and its commonest confusions between labels.

The memory of both grows linearly with the number of labels. A confusion matrix of 10,000 labels
would have a hundred million cells, nearly all of them zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

_PAIRS = 50


class LabelScore(NamedTuple):
    """The scores of one label. rows: number of rows with this label; predicted: number of rows for
    which the model predicts it.

    precision is 0 where the label is never predicted, recall 0 where no row has the label."""

    label: str
    rows: int
    predicted: int
    precision: float
    recall: float
    f1: float


def label_scores(
    truth: np.ndarray, predicted: np.ndarray, labels: Sequence[str]
) -> Iterator[LabelScore]:
    """Yield the scores of each label, in the order of `labels`. truth, predicted: (rows,) indices
    into `labels`."""
    have, given, right = (
        np.bincount(rows, minlength=len(labels)).tolist()
        for rows in (truth, predicted, truth[truth == predicted])
    )
    for label, true, said, hits in zip(labels, have, given, right, strict=True):
        f1 = 2 * hits / (true + said) if hits else 0.0
        yield LabelScore(label, true, said, hits / said if said else 0.0, hits / (true or 1), f1)


def most_confused(
    truth: np.ndarray, predicted: np.ndarray, labels: Sequence[str], most: int = _PAIRS
) -> list[dict[str, Any]]:
    """Return the commonest mistakes, {"label", "predicted", "rows"} each, most rows first."""
    wrong = truth != predicted
    pairs = np.stack([truth[wrong], predicted[wrong]], axis=1)
    found, rows = np.unique(pairs, axis=0, return_counts=True)
    chosen = np.argsort(-rows, kind="stable")[:most]
    return [
        {"label": labels[true], "predicted": labels[said], "rows": count}
        for (true, said), count in zip(found[chosen].tolist(), rows[chosen].tolist(), strict=True)
    ]
