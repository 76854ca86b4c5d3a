"""Describes a task for other parts of ftray, without importing the libraries that the task computes
with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Mode = Literal["min", "max"]
Output = Literal["labels", "text"]


@dataclass(frozen=True)
class Starter:
    """The starter spec that `ftray init` writes for a task, as parts of a YAML file with comments.

    name: of the run; model: the line of the section `model`; data, train, space, serve: lines of
    these sections.
    """

    name: str
    model: str
    data: str
    train: str
    space: str
    serve: str


@dataclass(frozen=True)
class TaskInfo:
    """Properties of a task for the spec, the preflight and the endpoint."""

    name: str
    """Name of the task's Hugging Face pipeline."""
    forms: tuple[tuple[str, ...], ...]
    """Sets of logical columns that the rows of a source may have. The first set applies unless
    `data.columns` names another."""
    answer: str
    """Logical column of the answer, which prediction does not need."""
    output: Output
    """Modality of the model's answers."""
    metrics: Mapping[str, Mode]
    """Metric -> "min" where the lowest value is the best, "max" where the highest is."""
    default_metric: str
    max_length: int
    """Tokens to which a row is cut unless the spec sets `data.max_length`."""
    starter: Starter
    synonyms: Mapping[str, str] = field(default_factory=dict)
    """Logical column -> names that other tools use for it."""
    lacks: Mapping[str, tuple[Any, str, str]] = field(default_factory=dict)
    """Dotted spec key that the task does not support -> the one value that the task admits, the
    reason, and the fix."""
    linear_probe: bool = False
    """Whether a linear probe on the base model is the baseline of training; else the baseline is
    the base model itself."""

    @property
    def has_labels(self) -> bool:
        """Whether every answer is one of a fixed set of labels, by which splits are stratified."""
        return self.output == "labels"

    @property
    def generates(self) -> bool:
        """Whether the model generates answers token by token."""
        return self.output == "text"

    @property
    def columns(self) -> tuple[str, ...]:
        """All logical columns that rows may have."""
        return tuple(dict.fromkeys(column for form in self.forms for column in form))
