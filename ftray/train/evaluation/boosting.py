"""The baseline of tables: gradient boosting of decision trees (scikit-learn's histogram-based one,
after LightGBM, Ke et al. 2017) on the columns as they are. On tables it is often the better model.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from ftray.data.encoding.encode import EncodedDataset
from ftray.tasks.classification import LABEL
from ftray.tasks.regression import NUMBERS
from ftray.tasks.tabular.pieces import ABSENT, VALUES
from ftray.train.evaluation.baselines import Baselines, compared

_MOST_ROWS = 100_000
"""Most rows that the trees are fitted to."""
_BINS = 255
"""Bins of a column."""


def fit_boosting(data: EncodedDataset, seed: int) -> tuple[Baselines, dict[str, Any]] | None:
    """Fit the baselines to the training split, and evaluate them on the validation split. Returns
    them with the event with their metrics; None for a table of texts alone.

    Trees have no safe format: the baselines keep the predictions for the test split, of which only
    the columns are read here.
    """
    started = time.perf_counter()
    if not data.schema.value_columns:
        return None
    train, validation, test = (data.load(name) for name in ("train", "validation", "test"))
    aim = NUMBERS if data.schema.scale else LABEL
    rows = np.random.default_rng(seed).permutation(len(train))[:_MOST_ROWS]
    inputs, targets = _known(train.column(VALUES))[rows], train.column(aim)
    models = [
        _fitted(inputs, targets[rows].reshape(len(rows), -1)[:, place], data, seed)
        for place in range(data.schema.width if data.schema.scale else 1)
    ]
    seen, asked = (_predicted(models, _known(of.column(VALUES))) for of in (validation, test))
    picks = data.schema.scale is None
    constant = np.bincount(targets).argmax() if picks else targets.mean(0)
    if picks:
        seen, asked = seen[:, 0], asked[:, 0]
    none = np.empty(0)
    baselines = Baselines(np.asarray(constant), np.asarray(picks), none, none, none, none, asked)
    event = compared(baselines, data, validation.column(aim), seen, "boosting")
    return baselines, {**event, "seconds": time.perf_counter() - started}


def _known(values: np.ndarray) -> np.ndarray:
    """Return the values of columns, (rows, columns), with NaN for those that are missing."""
    return np.where(values == ABSENT, np.nan, values)


def _fitted(inputs: np.ndarray, targets: np.ndarray, data: EncodedDataset, seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    kind = HistGradientBoostingRegressor if data.schema.scale else HistGradientBoostingClassifier
    # scikit-learn takes columns with fewer categories than bins.
    highest = np.nanmax(inputs, axis=0, initial=0)
    categories = [
        column.kind == "category" and most < _BINS - 1
        for column, most in zip(data.schema.value_columns, highest, strict=True)
    ]
    return kind(random_state=seed, categorical_features=categories).fit(inputs, targets)


def _predicted(models: list[Any], inputs: np.ndarray) -> np.ndarray:
    return np.stack([model.predict(inputs) for model in models], axis=1)
