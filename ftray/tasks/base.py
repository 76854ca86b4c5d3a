"""The task contract: everything specific to one kind of fine-tuning, and nothing about how it is
run.

A task is one file in this folder. It defines the columns of a row, the reasons for which a row is
bad, the encoding of rows as tensors, the loss, the metrics, and the endpoint's answers. It knows
nothing of Ray, DeepSpeed, storage or HTTP. Tasks import torch inside methods so that checking data
stays quick.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ftray.tasks.info import TaskInfo
from ftray.tasks.tokens import Spend, free

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Row = dict[str, str]
"""A clean row: the task's two columns, the question and its answer; the answer is not empty."""

Metrics = dict[str, Any]
"""Metric name -> number; one value may be a list (the commonest mistakes)."""

Inputs = Mapping[str, "torch.Tensor"]
"""Model inputs of B rows: input_ids and attention_mask, (B, T) int64, padded on the right."""


class BadRow(ValueError):
    """Raised for a row that cannot be used; the cleaning report counts rows by `kind`."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(kind, detail)
        self.kind = kind
        self.detail = detail


def is_missing(value: Any) -> bool:
    """Return whether a raw value is missing: None or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


class Examples(NamedTuple):
    """Training examples of rows: one example a row, or several where a text is split into windows.

    ids: token ids of each example; targets: one number for each example, by which the task finds
    the label or the tokens to learn; rows: index of the row of each example, rising; lengths:
    tokens of each row that has examples, before cutting; empty: indices of rows without examples,
    since the tokenizer makes no token of their question or answer.
    """

    ids: list[list[int]]
    targets: list[int]
    rows: list[int]
    lengths: list[int]
    empty: list[int]


class Task(Protocol):
    """Interface of every task. C is the number of labels, B rows of a batch, T tokens."""

    info: TaskInfo
    columns: tuple[str, str]
    """Columns of a clean row: the question, and the answer."""

    def clean(self, values: Mapping[str, Any]) -> Row:
        """Make a clean row of a source row (logical column -> raw value). Raises BadRow."""
        ...

    def question(self, values: Mapping[str, Any]) -> str:
        """Return the question of a source row, whose answer may be missing. Raises BadRow."""
        ...

    def is_blank(self, question: str) -> bool:
        """Return whether a question is blank: it has no visible character."""
        ...

    def identity(self, row: Row) -> str:
        """Return a key by which cleaning finds duplicates: equal for duplicate rows, whatever their
        labels."""
        ...

    def target(self, row: Row) -> str:
        """Return the label that splits are stratified by; a constant where rows have no labels."""
        ...

    def load_model(self, path: str, labels: Sequence[str], **options: Any) -> PreTrainedModel:
        """Load the pretrained model from the folder or Hub id `path`, with a head that fits
        `labels`."""
        ...

    def empty_model(self, path: str, labels: Sequence[str], **options: Any) -> PreTrainedModel:
        """Make the model from its config alone: reads no weights, so all weights are arbitrary."""
        ...

    def encode(
        self,
        tokenizer: PreTrainedTokenizerBase,
        questions: Sequence[str],
        max_length: int,
        spend: Spend = free,
    ) -> list[list[int]]:
        """Return the token ids of each question, cut to `max_length`, without padding."""
        ...

    def lengths(self, tokenizer: PreTrainedTokenizerBase, questions: Sequence[str]) -> list[int]:
        """Count the tokens of each question, before cutting."""
        ...

    def examples(
        self,
        tokenizer: PreTrainedTokenizerBase,
        rows: Mapping[str, Sequence[str]],
        labels: Sequence[str],
        max_length: int,
    ) -> Examples:
        """Make training examples of at most `max_length` tokens each from clean rows (column ->
        values)."""
        ...

    def collate(
        self, ids: Sequence[Sequence[int] | np.ndarray], pad_id: int
    ) -> dict[str, torch.Tensor]:
        """Return the model's inputs, padded to the longest of these rows."""
        ...

    def units(self, lengths: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Count loss terms per row, (rows,) float64. The loss of a batch is the mean over all of
        its terms."""
        ...

    def losses(
        self, logits: torch.Tensor, inputs: Inputs, targets: torch.Tensor, smoothing: float = 0.0
    ) -> torch.Tensor:
        """Return the loss of each row, (B,) float32, from the model's logits for `inputs`.

        smoothing: label smoothing, the share of the target's weight that is spread evenly over all
        classes (Szegedy et al. 2016)."""
        ...

    def probe_loss(self, logits: torch.Tensor) -> torch.Tensor:
        """Return a scalar whose backward pass takes as much memory as the loss of any batch with
        such logits. The search for the largest micro-batch uses it."""
        ...

    def empty_metric_state(self, labels: Sequence[str]) -> np.ndarray:
        """Return the metric state of no rows."""
        ...

    def metric_state(
        self, logits: torch.Tensor, inputs: Inputs, targets: torch.Tensor
    ) -> torch.Tensor:
        """Return the counts from which `metrics` computes: a float64 vector, on the device of the
        logits, that is summed over batches and ranks. The host does not wait for the device."""
        ...

    def metrics(self, metric_state: np.ndarray, labels: Sequence[str]) -> Metrics:
        """Return the metrics of all rows whose metric states were summed; `loss` is one of them."""
        ...


class Labelling(Task, Protocol):
    """A task whose model gives one logit for each label of a row."""

    def answers(
        self, logits: torch.Tensor, labels: Sequence[str], top_k: int | None = None
    ) -> list[Any]:
        """Return the endpoint's answer for each row, in the shape of the Hugging Face pipeline."""
        ...
