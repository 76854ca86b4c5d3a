"""The output side of tasks with any number of labels for each row: loss, metrics, thresholds,
answers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel

from ftray.tasks.base import (
    Answer,
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
from ftray.tasks.classification import label_entries, label_indices
from ftray.tasks.features import Feature
from ftray.tasks.info import NO_OPTIONS
from ftray.tasks.label_sets import scores, thresholds
from ftray.tasks.labels import label_name, listed
from ftray.tasks.metrics import Gathered, MetricState
from ftray.tasks.schema import Schema

if TYPE_CHECKING:
    import torch

LABEL_SET = "label_set"
"""The feature with the indices of a row's labels."""
NO_LABEL = -1
"""Padding of `LABEL_SET`."""
LABEL_SET_FEATURE = {LABEL_SET: Feature("int32", None, "target")}
METRICS: Mapping[str, Any] = {
    **dict.fromkeys(("average_precision", "f1_micro", "f1_macro", "exact_match"), "max"),
    "loss": "min",
}
_FLAGS = {"0": False, "1": True, "false": False, "true": True}


def clean_labels(value: Any) -> str:
    """Return the labels of a source row as JSON, sorted. value: a list, in JSON or not; a text with
    a separator; or column -> 0 or 1. Raises BadRow."""
    if isinstance(value, Mapping):
        told: Any = [name for name, flag in value.items() if _is_set(name, flag)]
    elif isinstance(value, str):
        told = listed(value, "labels_not_json")
    else:
        told = value
    if not isinstance(told, (list, tuple, np.ndarray)):
        kind = "missing_labels" if is_missing(told) else "labels_not_a_list"
        raise BadRow(kind, "" if is_missing(told) else repr(told)[:80])
    return json.dumps(sorted({label_name(label) for label in told}), ensure_ascii=False)


def _is_set(name: str, flag: Any) -> bool:
    told = _FLAGS.get("" if is_missing(flag) else label_name(flag))
    if told is None:
        raise BadRow("label_not_0_or_1", f"{name}: {flag!r}"[:80])
    return told


class MultiLabel(BaseTask):
    """Labels are strings; their sorted order gives their indices. C is the number of labels."""

    def labels_of(self, row: Row) -> Sequence[str]:
        labels: list[str] = json.loads(row["labels"])
        return labels

    def strata(self, answers: Sequence[Answer]) -> list[str]:
        """Return the rarest label of each answer, so that each split has its share of rare
        labels."""
        count = Counter[str]()
        for answer in answers:
            count.update(dict.fromkeys(answer.labels, answer.rows))
        rarest = partial(min, key=lambda label: (count[label], label), default="")
        return [rarest(answer.labels) for answer in answers]

    def fit(self, rows: Iterable[Row], options: BaseModel = NO_OPTIONS) -> Schema:
        return Schema(
            labels=tuple(sorted({label for row in rows for label in self.labels_of(row)}))
        )

    def unlearnable(self, schema: Schema) -> str:
        return "" if schema.labels else "have no label"

    def tuned(self, found: Gathered, schema: Schema) -> Schema:
        """Return the schema with the thresholds that are best on the rows of `found`."""
        best = thresholds(found.each["scores"], found.each["truth"])
        return schema.model_copy(update={"thresholds": tuple(best.tolist())})

    def targets(self, setup: TaskSetup, rows: Iterable[str]) -> list[np.ndarray]:
        """Return the indices of each row's labels, given as a clean row has them."""
        each = (label_indices(setup.labels, json.loads(labels)) for labels in rows)
        return [np.array(indices, dtype=np.int32) for indices in each]

    def head(self, schema: Schema) -> dict[str, Any]:
        return {**label_entries(schema.labels), "problem_type": "multi_label_classification"}

    def losses(self, outputs: Outputs, batch: Batch, smoothing: float = 0.0) -> torch.Tensor:
        """Return the binary cross-entropy of each row, the mean over labels, from logits (B, C).
        Smoothing moves the targets from 0 and 1 towards a half."""
        import torch

        logits = outputs["logits"].float()
        aim = _multi_hot(batch, logits) * (1 - smoothing) + smoothing / 2
        loss = torch.nn.functional.binary_cross_entropy_with_logits
        return loss(logits, aim, reduction="none").mean(-1)

    def empty_state(self, schema: Schema) -> MetricState:
        import torch

        wide = len(schema.labels)
        each = {"scores": torch.zeros(0, wide), "truth": torch.zeros(0, wide, dtype=torch.bool)}
        return MetricState({"loss": torch.zeros(())}, each)

    def metric_state(self, outputs: Outputs, batch: Batch, setup: TaskSetup) -> MetricState:
        """Return the sum of the losses, and the score and the truth of each label, (B, C) each."""
        logits = outputs["logits"].detach().float()
        each = {"scores": logits.sigmoid(), "truth": _multi_hot(batch, logits).bool()}
        return MetricState({"loss": self.losses(outputs, batch).detach().double().sum()}, each)

    def metrics(self, found: Gathered, schema: Schema) -> Metrics:
        """Return average_precision: the mean over labels, without a threshold; at the thresholds
        f1_micro, f1_macro (over labels that occur, as truth or as answer) and exact_match, the
        share of rows whose labels are all right; loss: mean binary cross-entropy in nats."""
        scored, truth = found.each["scores"], found.each["truth"]
        assert len(scored) > 0, "metrics of no rows"
        figures = scores(scored, truth, _thresholds(schema))
        return {**figures, "loss": float(found.sums["loss"] / len(scored))}

    def judge(self, outputs: Outputs, batch: Batch, setup: TaskSetup) -> list[Judged]:
        """Return each row's labels; the error is the share of labels that are wrong."""
        logits = outputs["logits"].float()
        given = logits.sigmoid().cpu().numpy() >= _thresholds(setup.schema)
        truth = _multi_hot(batch, logits).bool().cpu().numpy()
        return [
            Judged(_named(row, setup), _named(right, setup), None, float((row != right).mean()))
            for row, right in zip(given, truth, strict=True)
        ]

    def numbers(self, outputs: Outputs, setup: TaskSetup) -> np.ndarray:
        """Return how far the score of each label is above its threshold, (C,)."""
        found: np.ndarray = outputs["logits"].float().sigmoid().numpy() - _thresholds(setup.schema)
        return found

    def answers(
        self,
        setup: TaskSetup,
        questions: Sequence[Question],
        answered: Sequence[Answered],
        top_k: int | None = None,
    ) -> list[Any]:
        """Return the labels of each row, {"label", "score"} each, the likeliest first: those whose
        score reaches the threshold, maybe none; with `top_k`, the k likeliest."""
        least = _thresholds(setup.schema)
        return [_labels(outputs, setup, least, top_k) for ((_, outputs),) in answered]

    def summary(self, answer: Any) -> str:
        return ", ".join(sorted(each["label"] for each in answer))

    def outcome(self, answer: Any) -> dict[str, Any]:
        return {name: [each[key] for each in answer] for name, key in _OUTCOME.items()}


_OUTCOME = {"prediction": "label", "scores": "score"}


def _multi_hot(batch: Batch, like: torch.Tensor) -> torch.Tensor:
    """Return 1 for each label of a row and 0 for the others, (B, C) float32."""
    indices = batch.targets[LABEL_SET]
    wide = like.new_zeros(len(like), like.shape[-1] + 1)
    # Padding goes to a column of its own.
    return wide.scatter(1, indices.where(indices >= 0, like.shape[-1]), 1.0)[:, :-1]


def _thresholds(schema: Schema) -> np.ndarray:
    found = schema.thresholds or (0.5,) * len(schema.labels)
    return np.array(found, dtype=np.float32)


def _named(given: np.ndarray, setup: TaskSetup) -> list[str]:
    return [setup.labels[place] for place in np.flatnonzero(given)]


def _labels(
    outputs: Outputs, setup: TaskSetup, least: np.ndarray, top_k: int | None
) -> list[dict[str, Any]]:
    scored = outputs["logits"].float().sigmoid().numpy()
    best = np.argsort(-scored, kind="stable")[: top_k or None]
    chosen = best if top_k else best[scored[best] >= least[best]]
    return [{"label": setup.labels[place], "score": float(scored[place])} for place in chosen]
