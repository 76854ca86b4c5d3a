"""The output side of tasks that predict one number for each row, or several: loss, metrics,
answers."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel

from ftray.errors import DataError
from ftray.tasks.base import (
    Answered,
    BadRow,
    BaseTask,
    Batch,
    Judged,
    Metrics,
    Outputs,
    Question,
    Row,
    TaskSetup,
    is_missing,
)
from ftray.tasks.features import Feature
from ftray.tasks.info import NO_OPTIONS
from ftray.tasks.metrics import Gathered, MetricState
from ftray.tasks.schema import Scale, Schema

if TYPE_CHECKING:
    import torch

NUMBERS = "numbers"
"""The feature with the standardized numbers of a row."""
METRICS: Mapping[str, Any] = {
    "spearman": "max",
    "mae": "min",
    "pearson": "max",
    "r2": "max",
    "rmse": "min",
    "loss": "min",
}


def clean_numbers(value: Any) -> list[float]:
    """Return the numbers of a source row: a number, a text of one, or a list of them. Raises
    BadRow."""
    if is_missing(value) or (isinstance(value, str) and not value.strip()):
        raise BadRow("missing_score")
    parts = value if isinstance(value, (list, tuple, np.ndarray)) else [value]
    if not len(parts):
        raise BadRow("missing_score")
    return [_number(part) for part in parts]


def _number(value: Any) -> float:
    if isinstance(value, (bool, np.bool_)) or is_missing(value):
        raise BadRow("score_not_a_number", repr(value)[:80])
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise BadRow("score_not_a_number", repr(value)[:80]) from None
    if not math.isfinite(number):
        raise BadRow("score_not_a_number", repr(value)[:80])
    return number


class Regressor(BaseTask):
    """Numbers are standardized by the mean and deviation of the training rows; answers and metrics
    have the unit of the data. C is how many numbers a row has."""

    fitted: tuple[str, ...] | None = ("score",)

    def fit(self, rows: Iterable[Row], options: BaseModel = NO_OPTIONS) -> Schema:
        """Return the scale of the numbers. Raises DataError where rows have different counts."""
        values, counts = array("d"), set()
        for row in rows:
            values.extend(row["score"])
            counts.add(len(row["score"]))
        if len(counts) > 1:
            raise DataError.of(
                "data.columns.score",
                "score",
                f"rows have {' and '.join(map(str, sorted(counts)))} numbers",
                "give every row the same count of numbers, in the same order",
            )
        return Schema(scale=Scale.of(np.array(values).reshape(-1, *counts)))

    def unlearnable(self, schema: Schema) -> str:
        assert schema.scale is not None
        if any(schema.scale.varies):
            return ""
        return f"have one score, {schema.scale.mean[0]:g}; there is nothing to tell apart"

    def head(self, schema: Schema) -> dict[str, Any]:
        return {"num_labels": schema.width, "problem_type": "regression"}

    def target_features(self, setup: TaskSetup) -> dict[str, Feature]:
        return {NUMBERS: Feature("float32", (setup.schema.width,), "target")}

    def targets(self, setup: TaskSetup, scores: Iterable[Sequence[float]]) -> list[Any]:
        """Return the standardized numbers of rows. Raises DataError where a row has another count
        of numbers than the training rows."""
        assert setup.schema.scale is not None
        rows = list(scores)
        width = setup.schema.width
        if wrong := next((row for row in rows if len(row) != width), None):
            problem = f"a row has {len(wrong)} numbers, and those of the training {width}"
            raise DataError.of("data.columns.score", "score", problem, f"give {width} a row")
        values = np.array(rows, dtype=np.float64).reshape(-1, width)
        return list(setup.schema.scale.standardized(values).astype(np.float32))

    def losses(self, outputs: Outputs, batch: Batch, smoothing: float = 0.0) -> torch.Tensor:
        """Return the mean squared error of each row, in squared deviations of the training rows.
        `smoothing` has no effect."""
        found: torch.Tensor = (outputs["logits"].float() - batch.targets[NUMBERS]).square().mean(-1)
        return found

    def empty_state(self, schema: Schema) -> MetricState:
        import torch

        none = torch.zeros(0, schema.width)
        return MetricState(
            {"rows": torch.zeros(()), "loss": torch.zeros(())}, {"predicted": none, "truth": none}
        )

    def metric_state(self, outputs: Outputs, batch: Batch, setup: TaskSetup) -> MetricState:
        """Return the sums of losses and rows, and each row's predicted and true numbers,
        standardized, (B, C)."""
        import torch

        losses = self.losses(outputs, batch).detach().double()
        predicted, truth = outputs["logits"].detach().float(), batch.targets[NUMBERS]
        return MetricState(
            {"rows": torch.ones_like(losses).sum(), "loss": losses.sum()},
            {"predicted": predicted, "truth": truth},
        )

    def metrics(self, found: Gathered, schema: Schema) -> Metrics:
        """Return loss: mean squared error in squared deviations of the training rows; and in the
        unit of the data mae and rmse: mean absolute and root mean squared error, r2: share of the
        variance that is explained, pearson and spearman: correlations of numbers and of ranks, 0
        for constant predictions. Each is the mean over the C numbers."""
        assert schema.scale is not None and found.sums["rows"] > 0, "metrics of no rows"
        predicted, truth = (
            schema.scale.restored(found.each[name].astype(np.float64))
            for name in ("predicted", "truth")
        )
        loss = float(found.sums["loss"] / found.sums["rows"])
        return {"loss": loss, **mean_scores(predicted, truth)}

    def judge(self, outputs: Outputs, batch: Batch, setup: TaskSetup) -> list[Judged]:
        """Return each row's predicted numbers; the error is their mean distance from the truth."""
        assert setup.schema.scale is not None
        predicted, truth = (
            setup.schema.scale.restored(part.detach().double().cpu().numpy())
            for part in (outputs["logits"], batch.targets[NUMBERS])
        )
        errors = np.abs(predicted - truth).mean(-1)
        each = zip(predicted, truth, errors.tolist(), strict=True)
        return [Judged(_plain(p), _plain(t), None, error) for p, t, error in each]

    def numbers(self, outputs: Outputs, setup: TaskSetup) -> np.ndarray:
        """Return the standardized numbers, (C,)."""
        return outputs["logits"].float().numpy().ravel()

    def answers(
        self,
        setup: TaskSetup,
        questions: Sequence[Question],
        answered: Sequence[Answered],
        top_k: int | None = None,
    ) -> list[Any]:
        """Return {"score": number} for each row, or a list of numbers where rows have several."""
        assert setup.schema.scale is not None
        return [
            {"score": _plain(setup.schema.scale.restored(outputs["logits"].double().numpy()))}
            for ((_, outputs),) in answered
        ]

    def summary(self, answer: Any) -> str:
        """Return the numbers to three digits: two models seldom agree on more."""
        numbers = answer["score"] if isinstance(answer["score"], list) else [answer["score"]]
        return " ".join(f"{number:.3g}" for number in numbers)

    def outcome(self, answer: Any) -> dict[str, Any]:
        return {"prediction": answer["score"]}


def _plain(numbers: np.ndarray) -> float | list[float]:
    """Return one number as a float, several as a list."""
    found: list[float] = numbers.tolist()
    return found[0] if len(found) == 1 else found


def mean_scores(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Return the metrics of C numbers, the mean over them. predicted, truth: (rows, C)."""
    columns = [_scores(p, t) for p, t in zip(predicted.T, truth.T, strict=True)]
    return {name: float(np.mean([column[name] for column in columns])) for name in columns[0]}


def _scores(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Return the metrics of one number over all rows, (rows,) each."""
    gap = predicted - truth
    spread = float(np.square(truth - truth.mean()).sum())
    return {
        "spearman": _correlation(_ranks(predicted), _ranks(truth)),
        "pearson": _correlation(predicted, truth),
        "r2": 1 - float(np.square(gap).sum()) / spread if spread else 0.0,
        "mae": float(np.abs(gap).mean()),
        "rmse": float(np.sqrt(np.square(gap).mean())),
    }


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return the rank of each value; equal values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends: np.ndarray = np.cumsum(counts)
    ranks: np.ndarray = (ends - (counts - 1) / 2)[inverse]
    return ranks


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    if first.std() == 0 or second.std() == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])
