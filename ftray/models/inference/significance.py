"""Bootstrap confidence intervals of a model's test metrics, and of its gains over baselines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ftray.models.artifact.worth import Estimate, Worth
from ftray.tasks.info import TaskInfo
from ftray.tasks.regression import mean_scores
from ftray.tasks.schema import Schema

_TAILS = (2.5, 97.5)


class Answers(ABC):
    """The predictions of M models for the same rows, and two metrics of each."""

    metrics: ClassVar[tuple[str, str]]
    resamples: ClassVar[int] = 2_000

    @abstractmethod
    def scores(self, drawn: np.ndarray | None = None) -> np.ndarray:
        """Return the metrics of each model, (M, 2), defined as in `BaseTask.metrics`. drawn: a
        resample that replaces the rows."""

    @abstractmethod
    def draw(self, random: np.random.Generator) -> np.ndarray:
        """Draw a resample: as many rows as there are, with replacement."""

    def resampled(self, seed: int) -> np.ndarray:
        """Return bootstrap scores (Efron 1979), (resamples, M, 2). Each resample scores all models
        on the same rows."""
        random = np.random.default_rng(seed)
        return np.stack([self.scores(self.draw(random)) for _ in range(self.resamples)])


def answers_of(schema: Schema, truth: np.ndarray, predictions: Sequence[np.ndarray]) -> Answers:
    """Return the answers of several models. truth, predictions: (rows,) label indices, or (rows, C)
    standardized numbers."""
    if schema.scale is None:
        return LabelAnswers.of(truth, predictions, len(schema.labels))
    restored = [
        schema.scale.restored(np.asarray(part, np.float64)) for part in (truth, *predictions)
    ]
    return NumberAnswers(restored[0], tuple(restored[1:]))


@dataclass(frozen=True)
class LabelAnswers(Answers):
    """The predictions of several models for the same rows. Rows with the same label and the same
    predictions form one case; the class stores the K distinct cases with their counts.

    truth: (K,) label indices; predicted: (K, M) label indices that M models predict; counts: (K,)
    rows of each case.
    """

    truth: np.ndarray
    predicted: np.ndarray
    counts: np.ndarray
    classes: int
    metrics = ("accuracy", "f1_macro")

    @classmethod
    def of(cls, truth: np.ndarray, predictions: Sequence[np.ndarray], classes: int) -> LabelAnswers:
        """Count the cases. `truth` and each of `predictions` are (rows,) label indices."""
        cases, counts = np.unique(
            np.stack([truth, *predictions], axis=1), axis=0, return_counts=True
        )
        return cls(cases[:, 0], cases[:, 1:], counts, classes)

    def scores(self, drawn: np.ndarray | None = None) -> np.ndarray:
        """Return accuracy and macro-F1 of each model. drawn: counts of the cases in a resample."""
        counts = self.counts if drawn is None else drawn
        true = self._per_label(self.truth, counts)
        rows = counts.sum()
        result = np.empty((self.predicted.shape[1], 2))
        for model, predicted in enumerate(self.predicted.T):
            right = self._per_label(self.truth, counts * (predicted == self.truth))
            occurring = true + self._per_label(predicted, counts)
            f1 = 2 * right[occurring > 0] / occurring[occurring > 0]
            result[model] = right.sum() / rows, f1.mean()
        return result

    def draw(self, random: np.random.Generator) -> np.ndarray:
        """Draw the counts of the cases, which in a resample have a multinomial distribution."""
        rows = int(self.counts.sum())
        return random.multinomial(rows, self.counts / rows)

    def _per_label(self, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
        return np.bincount(labels, weights=counts, minlength=self.classes)


@dataclass(frozen=True)
class NumberAnswers(Answers):
    """Numbers that several models predict for the same rows. truth, each of predicted: (rows, C),
    in the unit of the data."""

    truth: np.ndarray
    predicted: tuple[np.ndarray, ...]
    metrics = ("spearman", "mae")
    resamples = 500

    def scores(self, drawn: np.ndarray | None = None) -> np.ndarray:
        """Return Spearman's correlation and the mean absolute error of each model. drawn: the
        numbers of the rows in a resample."""
        rows: np.ndarray | slice = slice(None) if drawn is None else drawn
        truth = self.truth[rows]
        found = (mean_scores(predicted[rows], truth) for predicted in self.predicted)
        return np.array([[scores[name] for name in self.metrics] for scores in found])

    def draw(self, random: np.random.Generator) -> np.ndarray:
        rows = len(self.truth)
        return random.integers(0, rows, rows)


@dataclass(frozen=True)
class Spent:
    """The cost of a model. seconds: duration of the training; worker_hours: of the training and all
    trials; price: of one worker-hour, None if unknown."""

    seconds: float
    worker_hours: float
    price: float | None = None


def measure_worth(answers: Answers, info: TaskInfo, spent: Spent, rows: int, seed: int) -> Worth:
    """Estimate the scores of the fine-tuned model and of both baselines on `rows` rows, and the
    gains over the baselines. answers: of the constant baseline, the linear probe or the boosting,
    and the fine-tuned model."""
    found, drawn = answers.scores(), answers.resampled(seed)
    names, signs = answers.metrics, signs_of(answers, info)
    of_each = [_scores(names, found[model], drawn[:, model]) for model in range(3)]
    gains = [
        _scores(names, signs * (found[2] - found[i]), signs * (drawn[:, 2] - drawn[:, i]))
        for i in (0, 1)
    ]
    cost = None if spent.price is None else spent.price * spent.worker_hours
    points = 100 * gains[1][names[0]].value
    return Worth(
        rows=rows,
        constant="majority label" if info.has_labels else "training mean",
        compared="gradient boosting" if info.boosting else "linear probe",
        in_points=tuple(name for name, sign in zip(names, signs, strict=True) if sign > 0),
        majority=of_each[0],
        probe=of_each[1],
        tuned=of_each[2],
        over_majority=gains[0],
        over_probe=gains[1],
        seconds=spent.seconds,
        worker_hours=spent.worker_hours,
        cost=cost,
        cost_per_point=cost / points if cost is not None and points > 0 else None,
    )


def signs_of(answers: Answers, info: TaskInfo) -> np.ndarray:
    """Return 1 for a metric whose highest value is the best, -1 for one whose lowest is."""
    return np.array([1 if info.metrics[name] == "max" else -1 for name in answers.metrics])


def _scores(names: Sequence[str], found: np.ndarray, drawn: np.ndarray) -> dict[str, Estimate]:
    """Combine the metrics with their intervals. found: (2,), the scores; drawn: (resamples, 2), the
    bootstrap scores."""
    lows, highs = np.percentile(drawn, _TAILS, axis=0)
    each = zip(names, found, lows, highs, strict=True)
    return {
        n: Estimate(value=float(v), low=float(low), high=float(high)) for n, v, low, high in each
    }
