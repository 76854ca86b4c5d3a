"""Bootstrap confidence intervals of a model's test metrics, and of its gains over baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ftray.models.artifact.worth import Estimate, Scores, Worth

RESAMPLES = 2_000
_TAILS = (2.5, 97.5)


@dataclass(frozen=True)
class Answers:
    """The predictions of several models for the same rows. Rows with the same label and the same
    predictions form one case; the class stores the K distinct cases with their counts.

    truth: (K,) label indices; predicted: (K, M) label indices that M models predict; counts: (K,)
    rows of each case.
    """

    truth: np.ndarray
    predicted: np.ndarray
    counts: np.ndarray
    classes: int

    @classmethod
    def of(cls, truth: np.ndarray, predictions: Sequence[np.ndarray], classes: int) -> Answers:
        """Count the cases. `truth` and each of `predictions` are (rows,) label indices."""
        cases, counts = np.unique(
            np.stack([truth, *predictions], axis=1), axis=0, return_counts=True
        )
        return cls(cases[:, 0], cases[:, 1:], counts, classes)

    def scores(self, counts: np.ndarray | None = None) -> np.ndarray:
        """Return accuracy and macro-F1 of each model, (M, 2), defined as in `Task.metrics`.
        `counts` replaces the counts of the cases where given."""
        counts = self.counts if counts is None else counts
        true = self._per_label(self.truth, counts)
        rows = counts.sum()
        result = np.empty((self.predicted.shape[1], 2))
        for model, predicted in enumerate(self.predicted.T):
            right = self._per_label(self.truth, counts * (predicted == self.truth))
            occurring = true + self._per_label(predicted, counts)
            f1 = 2 * right[occurring > 0] / occurring[occurring > 0]
            result[model] = right.sum() / rows, f1.mean()
        return result

    def resampled(self, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
        """Return bootstrap scores (Efron 1979), (resamples, M, 2). Each resample draws as many rows
        as there are, with replacement, and scores all models on the same rows.

        The counts of the cases in a resample have a multinomial distribution, so this method draws
        the counts instead of single rows.
        """
        random = np.random.default_rng(seed)
        rows = int(self.counts.sum())
        shares = self.counts / rows
        draws = (random.multinomial(rows, shares) for _ in range(resamples))
        return np.stack([self.scores(counts) for counts in draws])

    def _per_label(self, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
        return np.bincount(labels, weights=counts, minlength=self.classes)


@dataclass(frozen=True)
class Spent:
    """The cost of a model. seconds: duration of the training; worker_hours: of the training and all
    trials; price: of one worker-hour, None if unknown."""

    seconds: float
    worker_hours: float
    price: float | None = None


def measure_worth(
    truth: np.ndarray,
    majority: int,
    probe: np.ndarray,
    tuned: np.ndarray,
    classes: int,
    spent: Spent,
    seed: int,
) -> Worth:
    """Estimate the scores of the fine-tuned model and of both baselines, and the gains over the
    baselines.

    truth: (rows,) label indices of the test split; majority: label index that the majority baseline
    predicts; probe, tuned: (rows,) label indices that the linear probe and the fine-tuned model
    predict.
    """
    answers = Answers.of(truth, (np.full_like(truth, majority), probe, tuned), classes)
    found, drawn = answers.scores(), answers.resampled(seed)
    of_each = [_scores(found[model], drawn[:, model]) for model in range(3)]
    gains = [_scores(found[2] - found[i], drawn[:, 2] - drawn[:, i]) for i in (0, 1)]
    cost = None if spent.price is None else spent.price * spent.worker_hours
    points = 100 * gains[1].accuracy.value
    return Worth(
        rows=len(truth),
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


def _scores(found: np.ndarray, drawn: np.ndarray) -> Scores:
    """Combine accuracy and macro-F1 with their intervals. found: (2,), the scores; drawn:
    (resamples, 2), the bootstrap scores."""
    lows, highs = np.percentile(drawn, _TAILS, axis=0)
    accuracy, f1 = (
        Estimate(value=float(v), low=float(low), high=float(high))
        for v, low, high in zip(found, lows, highs, strict=True)
    )
    return Scores(accuracy=accuracy, f1_macro=f1)
