"""What the other parts of ftray ask of a task without importing what it computes with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Mode = Literal["min", "max"]
Output = Literal["labels", "text"]


@dataclass(frozen=True)
class Starter:
    """What `ftray init` writes for a task, as parts of a YAML file with comments.

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
    """One kind of fine-tuning, as the spec, the preflight and the endpoint see it."""

    name: str
    """That of the Hugging Face pipeline."""
    forms: tuple[tuple[str, ...], ...]
    """The sets of logical columns that the rows of a source may have; the first one unless others
    are named in `data.columns`."""
    answer: str
    """The logical column that prediction does without."""
    output: Output
    """The modality of what the model answers."""
    metrics: Mapping[str, Mode]
    """Metric -> whether the lowest or the highest value is the best."""
    default_metric: str
    max_length: int
    """Tokens that a row is cut to unless the spec says otherwise."""
    starter: Starter
    synonyms: Mapping[str, str] = field(default_factory=dict)
    """Logical column -> words that other tools have for it."""
    lacks: Mapping[str, tuple[Any, str, str]] = field(default_factory=dict)
    """Dotted key that the task does not support -> the one value that it admits, why, and the
    fix."""
    linear_probe: bool = False
    """Whether training is compared with a linear probe on the base model; else with the base model
    itself."""

    @property
    def has_labels(self) -> bool:
        """Whether every answer is one of a few labels, by which splits are stratified."""
        return self.output == "labels"

    @property
    def generates(self) -> bool:
        """Whether answers are written token by token."""
        return self.output == "text"

    @property
    def columns(self) -> tuple[str, ...]:
        """All logical columns that rows may have."""
        return tuple(dict.fromkeys(column for form in self.forms for column in form))
