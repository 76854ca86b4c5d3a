"""Estimates how much each key of a search space decided about the metric."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ftray.reports.sweep.trials import Trial

FEWEST = 10
"""Fewest trials for an estimate."""
_TREES, _SHUFFLES = 200, 20


@dataclass(frozen=True)
class Importance:
    """shares: key -> its share of the importance of all keys, the largest first; explained: the
    share of the variance between trials that the forest predicts for trials it was not fitted to
    (R², out of bag), below zero where it predicts worse than their mean."""

    shares: Mapping[str, float]
    explained: float
    trials: int


def importance(
    trials: Sequence[Trial], space: Mapping[str, Mapping[str, Any]]
) -> Importance | None:
    """Return the importance of each key by permutation (Breiman 2001) in a random forest over the
    trials with a result; None of fewer than 10 of them. space: key -> its domain."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    known = [t for t in trials if t.best is not None and not t.error and not t.is_seed]
    values = np.array([trial.best for trial in known], np.float64)
    if len(known) < FEWEST or not values.std():
        return None
    columns = np.array([[as_number(t.config.get(k), space[k]) for k in space] for t in known])
    forest = RandomForestRegressor(_TREES, oob_score=True, random_state=0, min_samples_leaf=2)
    forest.fit(columns, values)
    found = permutation_importance(forest, columns, values, n_repeats=_SHUFFLES, random_state=0)
    means = np.maximum(found.importances_mean, 0)
    shares = means / (means.sum() or 1.0)
    ranked = sorted(zip(space, shares.tolist(), strict=True), key=lambda item: -item[1])
    return Importance(dict(ranked), float(forest.oob_score_), len(known))


def as_number(value: Any, domain: Mapping[str, Any]) -> float:
    """Return a place on the axis of a domain: the logarithm, the number itself, or the place among
    the choices."""
    if value is None:
        return math.nan
    if domain.get("choice") is not None:
        names = [str(each) for each in domain["choice"]]
        return float(names.index(str(value))) if str(value) in names else math.nan
    return math.log10(value) if domain.get("loguniform") is not None else float(value)
