"""The task contract: what one kind of fine-tuning needs to know, and nothing about how it is run.

A task is one file beside this one. It says which columns a row has and what makes a row bad, how
rows become tensors, what the loss and the metrics are, and what the endpoint answers. It knows
nothing of Ray, DeepSpeed, storage or HTTP. torch is imported inside methods so that checking data
stays quick.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Row = dict[str, str]
"""A clean row: the task's columns, each a non-empty string."""

Metrics = dict[str, Any]
"""Metric name -> number; nested lists (a confusion matrix) are allowed beside numbers."""


class BadRow(ValueError):
    """Why a row cannot be used: `kind` is counted in the cleaning report."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(kind, detail)
        self.kind = kind
        self.detail = detail


class Task(Protocol):
    """What every task implements. C is the number of labels, B rows of a batch, T tokens."""

    name: str
    columns: tuple[str, ...]
    """Logical columns, in the order in which data.columns maps them to the source's names."""

    def clean(self, values: Mapping[str, Any]) -> Row:
        """The usable row in one source row (logical column -> raw value). Raises BadRow."""
        ...

    def identity(self, row: Row) -> str:
        """What two rows share when one is the twin of the other, whatever their labels."""
        ...

    def target(self, row: Row) -> str:
        """The label that splits are stratified by."""
        ...

    def load_model(self, path: str, labels: Sequence[str], **options: Any) -> PreTrainedModel:
        """The pretrained model in folder or Hub id `path`, its head replaced to fit `labels`."""
        ...

    def empty_model(self, path: str, labels: Sequence[str], **options: Any) -> PreTrainedModel:
        """As `load_model`, from the config alone: no weight is read, and all are arbitrary."""
        ...

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int
    ) -> list[list[int]]:
        """Token ids of each text, cut to `max_length`, without padding."""
        ...

    def collate(
        self, ids: Sequence[Sequence[int] | np.ndarray], pad_id: int
    ) -> dict[str, torch.Tensor]:
        """The model's inputs, (B, T) int64, padded to the longest of these rows."""
        ...

    def losses(
        self, logits: torch.Tensor, targets: torch.Tensor, smoothing: float = 0.0
    ) -> torch.Tensor:
        """Loss of each row, (B,) float32, from logits (B, C) and label indices (B,).

        smoothing: share of the target's weight that is spread evenly over all labels (Szegedy et
        al. 2016)."""
        ...

    def tally(self, logits: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
        """Counts from which `metrics` is computed: a float64 vector that adds up over batches
        and ranks, of a length that depends on C alone."""
        ...

    def metrics(self, tally: np.ndarray, labels: Sequence[str]) -> Metrics:
        """The metrics of all rows whose tallies were added up."""
        ...

    def answers(
        self, logits: torch.Tensor, labels: Sequence[str], top_k: int | None = None
    ) -> list[Any]:
        """What the endpoint returns for each row, in the shape of the Hugging Face pipeline."""
        ...
