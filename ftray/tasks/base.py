"""The task contract: everything specific to one kind of fine-tuning, and nothing about how it is
run.

A task is one file in a folder beside this one. It defines the columns of a row, the reasons for
which a row is bad, the features of examples, the loss, the metrics, and the endpoint's answers. It
knows nothing of Ray, DeepSpeed, storage or HTTP. Tasks import torch inside methods so that checking
data stays quick.

`BaseTask` has the defaults; a task overrides what differs. Letters in shapes: B examples of a
batch, T tokens, C numbers that the head gives for a row.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pydantic import BaseModel

from ftray.tasks.features import Batch, Example, Examples, Feature, stacked
from ftray.tasks.info import NO_OPTIONS, Modality, TaskInfo
from ftray.tasks.metrics import Gathered, MetricState
from ftray.tasks.schema import Schema

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Row = dict[str, Any]
"""A clean row: the values of the task's columns."""
Question = Any
"""What is asked of a model: the value of the input column where the task has one, else a mapping
from input column to value."""
Metrics = dict[str, Any]
"""Metric name -> number; one value may be a list (the commonest mistakes)."""
Inputs = Mapping[str, "torch.Tensor"]
"""Keyword arguments of the model for B examples."""
Outputs = Mapping[str, "torch.Tensor"]
"""Output name -> tensor, (B, ...) of a batch or (...) of one example."""
Augment = Callable[[Example, np.random.Generator], Example]
Collate = Callable[[Sequence[Example]], Batch]
Spend = Callable[[int], None]
"""Callback with the number of characters that are about to be tokenized; may raise."""


def free(characters: int) -> None:
    """Set no limit on the characters that are tokenized."""


class BadRow(ValueError):
    """Raised for a row that cannot be used; the cleaning report counts rows by `kind`."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(kind, detail)
        self.kind = kind
        self.detail = detail


def is_missing(value: Any) -> bool:
    """Return whether a raw value is missing: None or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


class Answer(NamedTuple):
    """An answer that some rows share: its stratum, its labels, and the number of these rows."""

    stratum: str
    labels: Sequence[str]
    rows: int = 0


@dataclass(frozen=True)
class TaskSetup:
    """The processor, schema and options that a task works with.

    processor: transformers' tokenizer or image processor; schema: fitted to the training rows;
    max_length: tokens to which a row is cut; options: the spec's `task_options`.
    """

    processor: Any
    schema: Schema = Schema()
    max_length: int = 0
    options: BaseModel = NO_OPTIONS

    @property
    def labels(self) -> tuple[str, ...]:
        return self.schema.labels


class Judged(NamedTuple):
    """The prediction for one example beside the right answer, the truth. score: the model's
    confidence, 0 to 1, or None; error: how wrong the prediction is, 0 where it is right; rank: of
    several examples of one row, the one with the highest rank answers."""

    prediction: Any
    truth: Any
    score: float | None
    error: float
    rank: float = 0.0


Answered = Sequence[tuple[Example, Outputs]]
"""The examples of one question, with the model's outputs for each."""


class BaseTask(ABC):
    """The contract of a task, with its defaults."""

    info: TaskInfo
    columns: Mapping[str, Modality]
    """Columns of a clean row, the answer last."""
    auto_class: str
    """transformers' Auto class that loads the model."""
    outputs: tuple[str, ...] = ("logits",)
    """Names of the tensors that `forward` returns."""
    model_outputs: tuple[str, ...] = ()
    """Names of the tensors of the transformers model that `forward` makes them of; empty where they
    are these tensors themselves."""
    cleaners: Mapping[str, Callable[[Any], Any]] = {}
    """Column -> function from its raw value to the clean one, which may raise BadRow: for a task
    that cleans each column by itself. Whole columns are then cleaned at once."""
    from_base: tuple[str, ...] = ()
    """Target features that the base model computes, once for each example, before the training: a
    loss may compare the model with it."""
    fitted: tuple[str, ...] | None = None
    """Columns that `fit` reads, which stay in memory; None for a `fit` that reads whole rows."""

    # Data

    @abstractmethod
    def ask(self, values: Mapping[str, Any]) -> Question:
        """Return the question of a source row (logical column -> raw value), whose answer may be
        missing. Raises BadRow."""

    def parse(self, values: Mapping[str, Any]) -> Row:
        """Make a clean row of a source row. Raises BadRow."""
        assert self.cleaners, "a task without cleaners has a parse of its own"
        return {
            name: clean(values[name]) for name, clean in self.cleaners.items() if name in values
        }

    def question(self, row: Row) -> Question:
        """Return the question of a clean row."""
        asked = {n: row[n] for n in self.columns if n not in self.info.answers and n in row}
        return next(iter(asked.values())) if len(asked) == 1 else asked

    @abstractmethod
    def is_blank(self, question: Question) -> bool:
        """Return whether a question has no content that a person would see."""

    @abstractmethod
    def key(self, row: Row) -> str:
        """Return a key by which cleaning finds duplicates: equal for duplicate rows, whatever their
        labels."""

    def stratum(self, row: Row) -> str:
        """Return the label that splits are stratified by; a constant where rows have no labels."""
        return ""

    def strata(self, answers: Sequence[Answer]) -> list[str]:
        """Return what rows are stratified by, for each different answer among the rows that are
        split together."""
        return [answer.stratum for answer in answers]

    def labels_of(self, row: Row) -> Sequence[str]:
        """Return the labels of a clean row, each of which the schema must have; of the row, only
        the columns of the answer are read."""
        return ()

    def fit(self, rows: Iterable[Row], options: BaseModel = NO_OPTIONS) -> Schema:
        """Return what the task learns of the training rows before the training. The rows come one
        by one, in any order, with the columns `fitted` at least. options: the spec's
        `task_options`."""
        return Schema()

    def unlearnable(self, schema: Schema) -> str:
        """Return why nothing can be learnt from rows with this schema; empty where it can."""
        return ""

    # Examples

    @abstractmethod
    def features(self, setup: TaskSetup) -> dict[str, Feature]:
        """Declare the features of the task's examples."""

    @abstractmethod
    def encode(
        self, setup: TaskSetup, questions: Sequence[Question], spend: Spend = free
    ) -> list[list[Example]]:
        """Return the examples of each question, without targets; none for a question that gives the
        model nothing to read. Raises ModelError where the processor refuses a question."""

    @abstractmethod
    def examples(self, setup: TaskSetup, rows: Mapping[str, Sequence[Any]]) -> Examples:
        """Make examples with targets of clean rows (column -> values)."""

    def lengths(self, setup: TaskSetup, questions: Sequence[Question]) -> list[int]:
        """Return the size of each question before cutting, in the unit of `setup.max_length`."""
        return [0] * len(questions)

    def size(self, question: Question) -> int:
        """Return a rough size of a question, in characters of text, before it is encoded."""
        return len(question) if isinstance(question, str) else 0

    def longest(self, setup: TaskSetup) -> int:
        """Return the cost of the largest example that a row can give, in tokens."""
        return setup.max_length

    def terms(self, column: Callable[[str], np.ndarray], lengths: np.ndarray) -> np.ndarray:
        """Count loss terms of each example of a split, (examples,) float64. The loss of a batch is
        the mean over all of its terms. column: returns a feature that is a number; lengths: size of
        each example."""
        return np.ones(len(lengths))

    def augmented_by(self, options: BaseModel, token_dropout: float) -> str | None:
        """Name the key of the spec, with its value, that makes other examples of the rows each
        time; None where examples stay as they are."""
        return None

    def augmentation(self, setup: TaskSetup, token_dropout: float) -> Augment | None:
        """Return the function that changes a training example at random, anew each time; None where
        examples stay as they are."""
        return None

    # Batches

    def collate(self, setup: TaskSetup, examples: Sequence[Example]) -> Batch:
        """Make one batch."""
        return stacked(examples, self.features(setup), {})

    def packing(self, model: Any, setup: TaskSetup) -> Collate | None:
        """Return the function that makes batches for the training, which may have several examples
        in a row; None where `collate` makes them. model: as `load_model` gives it."""
        return None

    @abstractmethod
    def dummy(self, setup: TaskSetup, size: int) -> Example:
        """Return an example of `size` tokens (or as large as any, where sizes do not differ), for
        planning and for measuring memory."""

    @abstractmethod
    def made_up(
        self, setup: TaskSetup, inputs: Mapping[str, Modality], size: int, draw: np.random.Generator
    ) -> Question:
        """Return a random question of `size` tokens with these inputs, for golden answers that show
        no row of the data."""

    # Model

    def head(self, schema: Schema) -> dict[str, Any]:
        """Return the config entries that describe the model's head."""
        return {}

    def load_model(self, path: str, schema: Schema, **options: Any) -> PreTrainedModel:
        """Load the pretrained model from the folder or Hub id `path`, with a head that fits
        `schema`."""
        head = self.head(schema)
        resized = {"ignore_mismatched_sizes": True} if head else {}
        model: PreTrainedModel = self._auto().from_pretrained(path, **resized, **head, **options)
        return model

    def empty_model(self, path: str, schema: Schema, **options: Any) -> PreTrainedModel:
        """Make the model from its config alone: reads no weights, so all weights are arbitrary."""
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(path, **self.head(schema), **options)
        model: PreTrainedModel = self._auto().from_config(config, **options)
        return model

    def _auto(self) -> Any:
        import transformers

        return getattr(transformers, self.auto_class)

    def untrainable(self, model: Any, setup: TaskSetup) -> str:
        """Return why the task cannot train the model; empty where it can."""
        return ""

    def check_lengths(self, model: Any, setup: TaskSetup) -> None:
        """Raise ModelError where the model has too few positions for what the task writes. What it
        reads is checked for every task. The model may be on the meta device."""
        return

    def forward(self, model: Any, inputs: Inputs) -> dict[str, torch.Tensor]:
        """Run the model. Returns the tensors in `outputs`, with the examples on the first axis."""
        found = model(**inputs)
        return {name: getattr(found, name) for name in self.outputs}

    def infer(self, model: Any, inputs: Inputs, setup: TaskSetup) -> dict[str, torch.Tensor]:
        """Run a trained model for its answers. Returns the tensors in `outputs`, and further ones
        that answers and metrics need but the loss does not."""
        return self.forward(model, inputs)

    def extra_files(self, model: Any, setup: TaskSetup) -> dict[str, Any]:
        """Return further files of a trained model's folder, by which other libraries open it: path
        below the folder -> its content as JSON."""
        return {}

    @abstractmethod
    def losses(self, outputs: Outputs, batch: Batch, smoothing: float = 0.0) -> torch.Tensor:
        """Return the loss of each example, (B,) float32.

        smoothing: label smoothing, the share of the target's weight that is spread evenly over all
        classes (Szegedy et al. 2016)."""

    def base_targets(self, outputs: Outputs, batch: Batch) -> dict[str, torch.Tensor]:
        """Return the features `from_base`, (B, ...), from the base model's outputs for a batch that
        lacks them."""
        return {}

    def probe_loss(self, outputs: Outputs) -> torch.Tensor:
        """Return a scalar whose backward pass takes as much memory as the loss of any batch with
        such outputs. The search for the largest micro-batch uses it."""
        total: torch.Tensor = sum(outputs[name].float().sum() for name in self.outputs)  # type: ignore[assignment]
        return total

    # Evaluation

    @abstractmethod
    def empty_state(self, schema: Schema) -> MetricState:
        """Return the metric state of no examples."""

    @abstractmethod
    def metric_state(self, outputs: Outputs, batch: Batch, setup: TaskSetup) -> MetricState:
        """Return what a batch adds to the metrics."""

    @abstractmethod
    def metrics(self, found: Gathered, schema: Schema) -> Metrics:
        """Return the metrics of all examples whose states were gathered; `loss` is one of them."""

    def tuned(self, found: Gathered, schema: Schema) -> Schema:
        """Return the schema with what is chosen after the training, by the states of the validation
        split: thresholds."""
        return schema

    def judge(self, outputs: Outputs, batch: Batch, setup: TaskSetup) -> list[Judged]:
        """Return the prediction for each example beside its answer."""
        return []

    def shares(self, outputs: Outputs, setup: TaskSetup) -> torch.Tensor | None:
        """Return the probability that the model gives to each label for each example, (B, C); None
        where an answer is not one of the schema's labels."""
        return None

    # Inference

    def numbers(self, outputs: Outputs, setup: TaskSetup) -> np.ndarray:
        """Return the numbers that make up the model's answer to one example, (N,) of the order of
        1: golden answers are compared by them."""
        return np.concatenate([outputs[n].float().ravel().numpy() for n in self.outputs])

    def answers(
        self,
        setup: TaskSetup,
        questions: Sequence[Question],
        answered: Sequence[Answered],
        top_k: int | None = None,
    ) -> list[Any]:
        """Return the endpoint's answer to each question, in the shape of the Hugging Face
        pipeline. With `top_k`, a list of the k likeliest answers each, best first."""
        raise NotImplementedError(f"{self.info.name} does not answer example by example")

    def summary(self, answer: Any) -> str:
        """Return the part of an answer that must be equal for two models to agree."""
        return str(answer)

    def outcome(self, answer: Any) -> dict[str, Any]:
        """Return the columns of `info.outcome` for one answer."""
        return {"prediction": answer}


def chosen(values: Any, columns: Iterable[str]) -> str:
    """Return a key of some values of a row that does not depend on case or white space."""
    return "\0".join([" ".join(str(values[name] or "").split()).casefold() for name in columns])


def as_json(question: Question) -> Any:
    """Return a question as JSON has it: bytes in base64."""
    from base64 import b64encode

    if isinstance(question, bytes):
        return b64encode(question).decode()
    if isinstance(question, Mapping):
        return {name: as_json(value) for name, value in question.items()}
    return question


def from_json(value: Any, inputs: Mapping[str, Modality]) -> Question:
    """Return the question that `as_json` made `value` of, with these inputs only. inputs: as in
    `TaskInfo.inputs`."""
    from base64 import b64decode

    if isinstance(value, Mapping):
        known = {name: part for name, part in value.items() if name in inputs}
        return {name: from_json(part, {name: inputs[name]}) for name, part in known.items()}
    (modality,) = inputs.values() if len(inputs) == 1 else ("text",)
    return b64decode(value) if modality == "image" else value


def digest_of(question: Question) -> bytes:
    """Return bytes that are equal for equal questions."""
    return json.dumps(as_json(question), sort_keys=True).encode("utf-8", "surrogatepass")
