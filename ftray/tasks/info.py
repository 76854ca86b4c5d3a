"""Describes a task for other parts of ftray, without importing the libraries that the task computes
with."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Mode = Literal["min", "max"]
Modality = Literal[
    "text",
    "texts",
    "chat",
    "category",
    "number",
    "image",
    "spans",
    "record",
    "date",
    "note",
    "items",
]
"""Kind of the values of a column. texts: a list of texts; number: one number or several; spans:
parts of another column's text; record: the other columns of a table, by name. The fields of a
record are numbers, categories, dates and notes (texts), and any of them may be missing. items: a
list of names in the order of time."""
FIELDS: frozenset[Modality] = frozenset(("number", "category", "date", "note"))
"""Kinds of the fields of a record."""
EVERY_OTHER = "*"
"""Name in a source that stands for all columns that no other logical column names."""
Output = Literal[
    "labels",
    "label_set",
    "text",
    "written",
    "numbers",
    "span",
    "entities",
    "fills",
    "embedding",
    "ranking",
    "items",
]
"""Kind of a model's answers. labels: one of a fixed set, with scores; label_set: any number of a
fixed set; text: generated token by token; written: a text that is generated as a whole; span: a
part of a text of the request; entities: any number of parts of it, with a label each; fills: tokens
for those that a text hides; embedding: a vector; ranking: the texts of a request, ordered; items:
names of a vocabulary, the likeliest first."""


class NoOptions(BaseModel):
    """The options of a task that has none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


NO_OPTIONS = NoOptions()


@dataclass(frozen=True)
class Sequences:
    """Columns of a task whose rows are sequences in the order of time. A source row is a sequence
    or one event of it.

    items, next: logical columns of the sequence, and of what follows it where that alone is
    learnt. user, item, time: of an event; the events of a user become one row. read: makes a list
    of names of a raw sequence; name: a name of a raw item. Both may raise BadRow.
    """

    items: str
    next: str
    user: str
    item: str
    time: str
    read: Callable[[Any], list[str]]
    name: Callable[[Any], str]


Lacks = Mapping[str, tuple[Any, str, str]]
"""Dotted spec key -> the one value that a task admits, the reason, and the fix."""
ONE_LABEL_ONLY: dict[str, tuple[Any, str, str]] = {
    "train.balance": (None, "is for one label a row", "Leave it out."),
    "train.calibrate": (False, "is for one label a row", "Leave it out."),
}
NO_SMOOTHING: dict[str, tuple[Any, str, str]] = {
    "train.label_smoothing": (0.0, "is for labels", "Set 0.")
}


@dataclass(frozen=True)
class Starter:
    """The starter spec that `ftray init` writes for a task, as parts of a YAML file with comments.

    name: of the run; model: the line of the section `model`; data, train, space, serve: lines of
    these sections; batch_size: of the section `train`.
    """

    name: str
    model: str
    data: str
    train: str
    space: str
    serve: str
    batch_size: int = 32


@dataclass(frozen=True)
class TaskInfo:
    """Properties of a task for the spec, the preflight and the endpoint."""

    name: str
    """Name of the task: that of its Hugging Face pipeline, where there is one."""
    forms: tuple[tuple[str, ...], ...]
    """Sets of logical columns that the rows of a source may have. The first set applies unless
    `data.columns` names another."""
    modalities: Mapping[str, Modality]
    """Logical column -> kind of its values."""
    answers: tuple[str, ...]
    """Logical columns of the answer, which prediction does not need; none where a task learns from
    its inputs alone."""
    output: Output
    """Kind of the model's answers."""
    metrics: Mapping[str, Mode]
    """Metric -> "min" where the lowest value is the best, "max" where the highest is; those that
    tell most come first."""
    default_metric: str
    """Picks checkpoints and trials unless the spec names another, or `answer_metrics` does."""
    max_length: int
    """Tokens to which a row is cut unless the spec sets `data.max_length`."""
    starter: Starter
    processor: Literal["tokenizer", "image_processor"] = "tokenizer"
    """The part of transformers that turns a row's values into model inputs."""
    options: type[BaseModel] = NoOptions
    """Schema of the spec's section `task_options`."""
    answer_metrics: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Column of an answer -> the metrics of rows that have it, the default first; for a task whose
    forms of rows are measured in different ways."""
    couples_rows: bool = False
    """Whether the loss of a row depends on the other rows of its batch. The loss then gets the
    whole batch at once, with the examples of a row side by side, as many for every row."""
    flags: frozenset[str] = frozenset()
    """Logical columns that may stand for several columns of a source, with 0 or 1 each."""
    requests: Mapping[str, Modality] | None = None
    """Inputs of a request; None: the columns of the form without the answer."""
    synonyms: Mapping[str, str] = field(default_factory=dict)
    """Logical column -> names that other tools use for it."""
    lacks: Lacks = field(default_factory=dict)
    """The keys of the spec that the task does not support."""
    linear_probe: bool = False
    """Whether a linear probe on the base model is the baseline of training; else the baseline is
    the base model itself."""
    boosting: bool = False
    """Whether gradient boosting on the columns of a table is the baseline of training."""
    outcome: tuple[str, ...] = ("prediction", "score")
    """Columns that `ftray predict` adds to a row."""
    pipeline: str = ""
    """Hugging Face pipeline that runs the model, where its name differs from the task's."""
    tag: str = ""
    """The task's name on the Hub, where it is that of neither the task nor the pipeline."""
    call: str = ""
    """Arguments of a call of this pipeline, in Python, for the model card; empty for a model that
    generates."""
    usage: str = ""
    """Python code that runs the model, for the model card, where no pipeline does."""
    ranks: bool = False
    """Whether a request may ask for the `top_k` likeliest answers."""
    sequences: Sequences | None = None
    """The columns of rows that are sequences of items."""
    repeats: bool = False
    """Whether equal rows are different cases, as in tables: none is then left out."""

    @property
    def headline(self) -> tuple[str, ...]:
        """The metrics, beside the loss, that are shown while a model trains: the first two."""
        return tuple(name for name in self.metrics if name != "loss")[:2]

    @property
    def has_baselines(self) -> bool:
        """Whether training is compared with other models, and not with the base model."""
        return self.linear_probe or self.boosting

    @property
    def hub_task(self) -> str:
        """The task's name on the Hub."""
        return self.tag or self.pipeline or self.name

    @property
    def has_labels(self) -> bool:
        """Whether every answer is one of a fixed set of labels, by which splits are stratified."""
        return self.output == "labels"

    @property
    def generates(self) -> bool:
        """Whether the model generates answers token by token."""
        return self.output == "text"

    @property
    def writes(self) -> bool:
        """Whether answers are texts of the model's own words, and not parts of what it read."""
        return self.output in ("text", "written")

    @property
    def finds_tokens(self) -> bool:
        """Whether the model gives a number for each entry of the vocabulary at each token."""
        return self.output in ("text", "written", "fills", "items")

    @property
    def reads_text(self) -> bool:
        """Whether the model reads token ids of texts."""
        return self.processor == "tokenizer"

    @property
    def files(self) -> frozenset[str]:
        """Logical columns whose values are files: their content, or the name of a file."""
        return frozenset(name for name, kind in self.modalities.items() if kind == "image")

    @property
    def several(self) -> frozenset[str]:
        """Logical columns that may stand for several columns of a source."""
        return self.flags | {name for name, kind in self.modalities.items() if kind == "record"}

    def name_of(self, logical: str) -> str:
        """Return the name of a logical column in a source that `data.columns` does not name."""
        return EVERY_OTHER if self.modalities[logical] == "record" else logical

    @property
    def columns(self) -> tuple[str, ...]:
        """All logical columns that rows may have."""
        return tuple(dict.fromkeys(column for form in self.forms for column in form))

    def metrics_of(self, columns: Collection[str]) -> dict[str, Mode]:
        """Return the metrics of rows with these logical columns, the default one first."""
        own = next((of for name, of in self.answer_metrics.items() if name in columns), None)
        names = own or dict.fromkeys((self.default_metric, *self.metrics))
        return {name: self.metrics[name] for name in names}

    def inputs(
        self, columns: Sequence[str], fields: Mapping[str, Modality] | None = None
    ) -> dict[str, Modality]:
        """Return the inputs of a request to a model whose rows have these logical columns: input
        name -> kind of its value. fields: of a record, which stand for it."""
        if self.requests is not None:
            return dict(self.requests)
        found = {name: self.modalities[name] for name in columns if name not in self.answers}
        return dict(fields) if fields and "record" in found.values() else found
