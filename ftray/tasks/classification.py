"""The output side of tasks with one label for each row: loss, metrics, answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel

from ftray.tasks.base import (
    Answered,
    BaseTask,
    Batch,
    Judged,
    Metrics,
    Outputs,
    Question,
    Row,
    TaskSetup,
)
from ftray.tasks.features import Feature
from ftray.tasks.info import NO_OPTIONS
from ftray.tasks.labels import label_name
from ftray.tasks.metrics import Gathered, MetricState
from ftray.tasks.schema import Schema

if TYPE_CHECKING:
    import torch

LABEL = "labels"
"""The feature with the index of a row's label."""
LABEL_FEATURE = {LABEL: Feature("int64", (), "target")}
METRICS: Mapping[str, Any] = {"accuracy": "max", "f1_macro": "max", "loss": "min"}


def label_indices(labels: Sequence[str], of: Iterable[str]) -> list[int]:
    """Return the index of each label."""
    # Normalize the model's labels, too: an older ftray may have named them otherwise.
    index = {label_name(label): place for place, label in enumerate(labels)}
    return [index[label] for label in of]


def label_entries(labels: Sequence[str]) -> dict[str, Any]:
    """Return the config entries that name the outputs of a head with one number a label."""
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }


class Classifier(BaseTask):
    """Labels are strings; their sorted order gives their indices. C is the number of labels."""

    fitted: tuple[str, ...] | None = ("label",)

    def stratum(self, row: Row) -> str:
        label: str = row["label"]
        return label

    def labels_of(self, row: Row) -> Sequence[str]:
        return (row["label"],)

    def fit(self, rows: Iterable[Row], options: BaseModel = NO_OPTIONS) -> Schema:
        return Schema(labels=tuple(sorted({row["label"] for row in rows})))

    def unlearnable(self, schema: Schema) -> str:
        if len(schema.labels) > 1:
            return ""
        return f"have one label, {schema.labels[0]!r}; there is nothing to tell apart"

    def head(self, schema: Schema) -> dict[str, Any]:
        return {**label_entries(schema.labels), "problem_type": "single_label_classification"}

    def picked(self, logits: torch.Tensor, schema: Schema) -> torch.Tensor:
        """Return the index of the label that answers each row, (B,): the likeliest, or the one
        whose probability is farthest above its threshold. logits: (B, C)."""
        if not schema.thresholds:
            return logits.argmax(-1)
        return self._margins(logits.float().softmax(-1), schema).argmax(-1)

    def _margins(self, shares: torch.Tensor, schema: Schema) -> torch.Tensor:
        """Return by how much the probabilities (B, C) are above the thresholds."""
        import torch

        if not schema.thresholds:
            return shares
        return shares - torch.tensor(schema.thresholds, device=shares.device)

    def losses(self, outputs: Outputs, batch: Batch, smoothing: float = 0.0) -> torch.Tensor:
        """Return the cross-entropy of each row, from logits (B, C) and label indices (B,)."""
        import torch

        return torch.nn.functional.cross_entropy(
            outputs["logits"].float(),
            batch.targets[LABEL],
            reduction="none",
            label_smoothing=smoothing,
        )

    def empty_state(self, schema: Schema) -> MetricState:
        import torch

        counts = {name: torch.zeros(len(schema.labels)) for name in ("true", "predicted", "right")}
        return MetricState({**counts, "loss": torch.zeros(())})

    def metric_state(self, outputs: Outputs, batch: Batch, setup: TaskSetup) -> MetricState:
        """Return the number of rows that have each label (true), for which it is predicted, and for
        which it is predicted rightly, (C,) each; and the sum of the losses."""
        import torch

        logits, truth = outputs["logits"].detach(), batch.targets[LABEL]
        predicted = self.picked(logits, setup.schema)
        right = predicted == truth
        ones = torch.ones_like(right)
        zeros = torch.zeros(logits.shape[-1], dtype=torch.float64, device=logits.device)
        sums = {
            name: zeros.index_add(0, place, rows.double())
            for name, place, rows in (
                ("true", truth, ones),
                ("predicted", predicted, ones),
                ("right", truth, right),
            )
        }
        return MetricState({**sums, "loss": self.losses(outputs, batch).double().sum()})

    def metrics(self, found: Gathered, schema: Schema) -> Metrics:
        """Return accuracy; f1_macro: the unweighted mean of F1 over the labels that occur, as truth
        or as prediction; loss: mean cross-entropy in nats."""
        true, predicted, right = (found.sums[n] for n in ("true", "predicted", "right"))
        rows = true.sum()
        assert rows > 0, "metrics of no rows"
        occurring = true + predicted
        f1 = 2 * right[occurring > 0] / occurring[occurring > 0]
        return {
            "accuracy": float(right.sum() / rows),
            "f1_macro": float(f1.mean()),
            "loss": float(found.sums["loss"] / rows),
        }

    def judge(self, outputs: Outputs, batch: Batch, setup: TaskSetup) -> list[Judged]:
        """Return the index of each row's label, and its probability; the error of a wrong label is
        its probability."""
        found = self.picked(outputs["logits"], setup.schema)
        shares = outputs["logits"].float().softmax(-1)
        scores = shares.gather(-1, found[:, None])[:, 0]
        each = zip(found.tolist(), batch.targets[LABEL].tolist(), scores.tolist(), strict=True)
        return [
            Judged(index, truth, score, score if index != truth else 0.0)
            for index, truth, score in each
        ]

    def shares(self, outputs: Outputs, setup: TaskSetup) -> torch.Tensor:
        import torch

        return torch.softmax(outputs["logits"].float(), -1)

    def numbers(self, outputs: Outputs, setup: TaskSetup) -> np.ndarray:
        """Return the probability of each label, (C,)."""
        return self.shares(outputs, setup).numpy()

    def answers(
        self,
        setup: TaskSetup,
        questions: Sequence[Question],
        answered: Sequence[Answered],
        top_k: int | None = None,
    ) -> list[Any]:
        """Return {"label", "score"} for each row; with `top_k`, a list of the k likeliest labels
        for each row, best first. score: the label's probability."""
        import torch

        if not answered:
            return []
        labels = setup.labels
        logits = torch.stack([outputs["logits"] for ((_, outputs),) in answered])
        shares = torch.softmax(logits.float(), -1)
        margins = self._margins(shares, setup.schema)
        indices = margins.topk(min(top_k or 1, len(labels)), dim=-1).indices
        scores = shares.gather(-1, indices)
        ranked = [
            [{"label": labels[i], "score": s} for s, i in zip(row_scores, row_indices, strict=True)]
            for row_scores, row_indices in zip(scores.tolist(), indices.tolist(), strict=True)
        ]
        return ranked if top_k else [row[0] for row in ranked]

    def summary(self, answer: Any) -> str:
        label: str = (answer[0] if isinstance(answer, list) else answer)["label"]
        return label

    def outcome(self, answer: Any) -> dict[str, Any]:
        return {"prediction": answer["label"], "score": answer["score"]}
