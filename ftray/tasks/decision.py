"""Two labels of which one is the positive one, as in the search for rare cases: metrics of its
scores, and the threshold that its costs imply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ftray.errors import DataError
from ftray.tasks.ranking import average_precision, cheapest, recall_at, roc_auc

RANKING: Mapping[str, Any] = dict.fromkeys(("roc_auc", "average_precision", "recall_at_fpr"), "max")


class Costs(BaseModel):
    """The costs of the two mistakes, in any unit."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    false_positive: float = Field(1.0, gt=0, description="Of taking a negative row for positive.")
    false_negative: float = Field(1.0, gt=0, description="Of missing a positive row.")


class Decision(BaseModel):
    """The rule that decides for one of two labels.

    positive: the label that is looked for, None of more than two; rate: false-positive rate at
    which recall is measured; costs: None where the likelier label is the answer.
    """

    model_config = ConfigDict(frozen=True)
    positive: str | None
    rate: float
    costs: Costs | None = None


def decision(
    counts: Mapping[str, int], positive: str | None, rate: float, costs: Costs | None
) -> Decision:
    """Return the decision between the labels in `counts`, label -> rows. positive: the label that
    the spec names; else of two labels the rarer one is it. Raises DataError where the spec names a
    label that no row has, or costs of more labels."""
    if positive is not None and positive not in counts:
        known = ", ".join(sorted(counts)[:8])
        raise DataError.of("task_options.positive", positive, "no row has it", f"name of {known}")
    if len(counts) != 2:
        if positive is not None or costs is not None:
            key = "task_options.positive" if positive else "task_options.costs"
            problem = f"is for two labels, and the rows have {len(counts)}"
            raise DataError.of(key, positive or "set", problem, "leave it out")
        return Decision(positive=None, rate=rate)
    rarer = min(counts, key=lambda label: (counts[label], label))
    return Decision(positive=positive or rarer, rate=rate, costs=costs)


def ranking_metrics(
    scores: np.ndarray, truth: np.ndarray, labels: Sequence[str], of: Decision
) -> dict[str, float]:
    """Return roc_auc, average_precision and recall_at_fpr of the positive label; of more than two
    labels, the mean over those that some rows have and some have not.

    scores: (rows, C) probabilities; truth: (rows,) label indices.
    """
    chosen = range(len(labels)) if of.positive is None else [labels.index(of.positive)]
    each = [
        (roc_auc(mine, own), average_precision(mine, own), recall_at(mine, own, of.rate))
        for place in chosen
        if (own := truth == place).any() and not own.all()
        for mine in (scores[:, place],)
    ]
    means = np.mean(each, axis=0) if each else np.array([0.5, 0.0, 0.0])
    return dict(zip(RANKING, map(float, means), strict=True))


def thresholds_of(
    scores: np.ndarray, truth: np.ndarray, labels: Sequence[str], of: Decision
) -> tuple[float, ...]:
    """Return the least score of each of two labels, which is cheapest on these rows. scores: (rows,
    2) probabilities; truth: (rows,) label indices."""
    assert of.costs is not None and of.positive is not None
    place = labels.index(of.positive)
    costs = of.costs.false_positive, of.costs.false_negative
    least = cheapest(scores[:, place], truth == place, *costs)
    return tuple(least if at == place else 1 - least for at in range(2))


def mean_cost(
    truth: np.ndarray, predicted: np.ndarray, labels: Sequence[str], of: Decision
) -> float:
    """Return the mean cost of a row. truth, predicted: (rows,) label indices."""
    assert of.costs is not None and of.positive is not None
    place = labels.index(of.positive)
    false_alarms = (truth != place) & (predicted == place)
    misses = (truth == place) & (predicted != place)
    return float(
        of.costs.false_positive * false_alarms.mean() + of.costs.false_negative * misses.mean()
    )
