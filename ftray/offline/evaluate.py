"""Evaluates a model on rows with known answers: its own test split, or any other source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ftray.data.cleaning import clean as cleaning
from ftray.data.cleaning import spellings
from ftray.data.dataset import read_dataset
from ftray.data.encoding.tokenless import none_left, tokenless_rows
from ftray.data.readers.rows import Source
from ftray.data.sources import read_source, source_of
from ftray.errors import DataError
from ftray.models.artifact.named import NamedModel
from ftray.models.inference.measure import Measured
from ftray.models.load import load_model
from ftray.spec.load import parse
from ftray.spec.schema import DataSpec
from ftray.tasks import get_task
from ftray.tasks.base import Examples
from ftray.tasks.labels import label_name
from ftray.tasks.per_label import LabelScore, label_scores

OWN_SPLIT = "test"
Columns = tuple[str | None, str | None]
"""Names of the input column and of the label column in a source; None: as in the model's spec."""


class Wrong(NamedTuple):
    """A row with another predicted label than its own. score: the predicted label's probability."""

    row: dict[str, Any]
    prediction: str
    score: float


@dataclass(frozen=True)
class Evaluation:
    model: str
    version: int | None
    data: str
    """The source, or `test`: the test split of the model's own spec."""
    rows: int
    metrics: dict[str, Any]
    labels: tuple[LabelScore, ...]
    """Scores of each label; empty for a model without labels."""
    wrong: tuple[Wrong, ...]

    def to_json(self) -> dict[str, Any]:
        """Return all fields but the wrong rows."""
        named = {name: getattr(self, name) for name in ("model", "version", "data", "rows")}
        labels = [label._asdict() for label in self.labels]
        return {**named, "metrics": self.metrics, "labels": labels}


def evaluate(
    model: NamedModel,
    source: str | None,
    columns: Columns,
    encoding: str | None,
) -> Evaluation:
    """Evaluate a model on the rows of `source`; None: on the test split of the model's own spec.
    `columns` (of the inputs, and of the answers) and `encoding` are as in the model's spec unless
    given.

    Raises DataError when the rows cannot be read or a label is none of the model's, ModelError
    when the model cannot be loaded or no longer gives its golden answers.
    """
    asked, rows = _own_rows(model) if source is None else _rows_of(model, source, columns, encoding)
    task = get_task(model.info.task)
    if task.info.has_labels:
        _require_known(rows["label"].to_pylist(), model, source)
    loaded = load_model(model.folder, trust_remote_code=model.trust_remote_code)
    loaded.check_golden()
    examples = loaded.examples({column: rows[column].to_pylist() for column in task.columns})
    _admit(examples, rows, asked, parse(model.info.spec).data)
    targets = np.array(examples.targets)
    measured = loaded.measure(examples.ids, targets)
    count = rows.num_rows - len(examples.empty)
    found: tuple[LabelScore, ...] = ()
    if measured.predicted is not None:
        found = tuple(label_scores(targets, measured.predicted, model.info.labels))
    wrong = tuple(_wrong(rows, examples, measured, model.info.labels))
    about = (model.name, model.version, source or OWN_SPLIT, count)
    return Evaluation(*about, measured.metrics, found, wrong)


def _wrong(
    rows: pa.Table, examples: Examples, measured: Measured, labels: Sequence[str]
) -> Iterator[Wrong]:
    """Yield the rows with a wrong predicted label, the highest score first."""
    if measured.predicted is None or measured.scores is None:
        return
    places = np.flatnonzero(measured.predicted != np.array(examples.targets))
    columns = [name for name in rows.column_names if name != "where"]
    for place in places[np.argsort(-measured.scores[places], kind="stable")].tolist():
        number = examples.rows[place]
        row = {name: rows[name][number].as_py() for name in columns}
        yield Wrong(row, labels[measured.predicted[place]], float(measured.scores[place]))


def _admit(examples: Examples, rows: pa.Table, asked: Source, data: DataSpec) -> None:
    """Raise DataError for rows without any token, unless the spec skips bad rows, and where no
    other rows are left."""
    found = tokenless_rows("data", rows, rows["where"], examples.empty)
    if found and data.on_bad_row == "fail":
        raise DataError(cleaning.problem(asked, found, rows.num_rows))
    if not examples.ids:
        raise none_left(asked, rows.num_rows)


def _require_known(labels: Sequence[str], model: NamedModel, source: str | None) -> None:
    known = {label_name(label) for label in model.info.labels}
    if unknown := Counter(label for label in labels if label not in known):
        raise DataError.of(
            "--data",
            source,
            f"labels that {model.reference} does not know: {spellings.counted(unknown)}",
            f"it knows {spellings.named(model.info.labels)}",
        )


def _own_rows(model: NamedModel) -> tuple[Source, pa.Table]:
    """Read the test split of the model's own spec. Return its source and its rows."""
    spec = parse(model.info.spec)
    dataset = read_dataset(spec)
    url = spec.data.test if isinstance(spec.data.test, str) else spec.data.train
    table = dataset.splits[OWN_SPLIT].append_column("where", dataset.places[OWN_SPLIT])
    return source_of(url, OWN_SPLIT, spec.data, spec.info), table


def _rows_of(
    model: NamedModel, source: str, columns: Columns, encoding: str | None
) -> tuple[Source, pa.Table]:
    spec = parse(model.info.spec)
    if columns[1] is not None and len(spec.columns) < 2:
        problem = f"{model.reference} has what is asked and its answer in one column"
        raise DataError.of("--label", columns[1], problem, "leave it out")
    named = {
        logical: given or own
        for (logical, own), given in zip(spec.columns.items(), columns, strict=False)
    }
    table, _, _ = read_source(
        source,
        named,
        get_task(model.info.task),
        encoding or spec.data.encoding,
        spec.data.on_bad_row,
        csv=spec.data.csv,
    )
    return Source("--data", source, named), table
