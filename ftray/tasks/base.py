"""The task contract: what one kind of fine-tuning needs to know, and nothing about how it is run.

A task is one file beside this one. It says which columns a row has and what makes a row bad, how
rows become tensors, what the loss and the metrics are, and what the endpoint answers. It knows
nothing of Ray, DeepSpeed, storage or HTTP. torch is imported inside methods so that checking data
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
"""A clean row: the task's two columns, what is asked and its answer; the answer is not empty."""

Metrics = dict[str, Any]
"""Metric name -> number; a list (the commonest mistakes) may stand beside numbers."""

Inputs = Mapping[str, "torch.Tensor"]
"""What a model is given of B rows: input_ids and attention_mask, (B, T) int64, padded on the
right."""


class BadRow(ValueError):
    """Why a row cannot be used: `kind` is counted in the cleaning report."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(kind, detail)
        self.kind = kind
        self.detail = detail


def is_missing(value: Any) -> bool:
    """Whether a raw value stands for none."""
    return value is None or (isinstance(value, float) and math.isnan(value))


class Examples(NamedTuple):
    """Rows as a model learns them: of each row one example, or several where a text is learnt in
    windows.

    ids: token ids of each example; targets: of each example one number, by which the task finds
    what is to be learnt; rows: the place of the row that each example is made of, rising; lengths:
    tokens of each of these rows before anything is cut; empty: places of rows that no example is
    made of, since the tokenizer makes no token of what they ask or answer.
    """

    ids: list[list[int]]
    targets: list[int]
    rows: list[int]
    lengths: list[int]
    empty: list[int]


class Task(Protocol):
    """What every task implements. C is the number of labels, B rows of a batch, T tokens."""

    info: TaskInfo
    columns: tuple[str, str]
    """Of a clean row: what is asked, and the answer."""

    def clean(self, values: Mapping[str, Any]) -> Row:
        """The usable row in one source row (logical column -> raw value). Raises BadRow."""
        ...

    def question(self, values: Mapping[str, Any]) -> str:
        """What is asked in one source row, whose answer may be missing. Raises BadRow."""
        ...

    def is_blank(self, question: str) -> bool:
        """Whether nothing is asked: there is nothing to be seen in it."""
        ...

    def identity(self, row: Row) -> str:
        """What two rows share when one is the twin of the other, whatever their labels."""
        ...

    def target(self, row: Row) -> str:
        """The label that splits are stratified by; the same for every row where there are none."""
        ...

    def load_model(self, path: str, labels: Sequence[str], **options: Any) -> PreTrainedModel:
        """The pretrained model in folder or Hub id `path`, its head replaced to fit `labels`."""
        ...

    def empty_model(self, path: str, labels: Sequence[str], **options: Any) -> PreTrainedModel:
        """As `load_model`, from the config alone: no weight is read, and all are arbitrary."""
        ...

    def encode(
        self,
        tokenizer: PreTrainedTokenizerBase,
        questions: Sequence[str],
        max_length: int,
        spend: Spend = free,
    ) -> list[list[int]]:
        """Token ids of what is asked, cut to `max_length`, without padding."""
        ...

    def lengths(self, tokenizer: PreTrainedTokenizerBase, questions: Sequence[str]) -> list[int]:
        """Tokens of what is asked, before anything is cut."""
        ...

    def examples(
        self,
        tokenizer: PreTrainedTokenizerBase,
        rows: Mapping[str, Sequence[str]],
        labels: Sequence[str],
        max_length: int,
    ) -> Examples:
        """Clean rows (column -> values) as they are learnt, in at most `max_length` tokens each."""
        ...

    def collate(
        self, ids: Sequence[Sequence[int] | np.ndarray], pad_id: int
    ) -> dict[str, torch.Tensor]:
        """The model's inputs, padded to the longest of these rows."""
        ...

    def units(self, lengths: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Loss terms per row, (rows,) float64: a batch's loss is the mean over all of its terms."""
        ...

    def losses(
        self, logits: torch.Tensor, inputs: Inputs, targets: torch.Tensor, smoothing: float = 0.0
    ) -> torch.Tensor:
        """Loss of each row, (B,) float32, from the model's logits for `inputs`.

        smoothing: share of the target's weight that is spread evenly over all that could be
        answered (Szegedy et al. 2016)."""
        ...

    def probe_loss(self, logits: torch.Tensor) -> torch.Tensor:
        """A scalar whose backward pass takes as much memory as that of any batch with such logits:
        by it is found out what fits."""
        ...

    def empty_metric_state(self, labels: Sequence[str]) -> np.ndarray:
        """That of no rows."""
        ...

    def metric_state(
        self, logits: torch.Tensor, inputs: Inputs, targets: torch.Tensor
    ) -> torch.Tensor:
        """Counts from which `metrics` is computed: a float64 vector that adds up over batches
        and ranks, on the device of the logits. The host does not wait for that."""
        ...

    def metrics(self, metric_state: np.ndarray, labels: Sequence[str]) -> Metrics:
        """The metrics of all rows whose tallies were added up; `loss` is one of them."""
        ...


class Labelling(Task, Protocol):
    """A task whose model gives one logit for each label of a row."""

    def answers(
        self, logits: torch.Tensor, labels: Sequence[str], top_k: int | None = None
    ) -> list[Any]:
        """What the endpoint returns for each row, in the shape of the Hugging Face pipeline."""
        ...
