"""Evaluates a model on rows with known answers: its own test split, or any other source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ftray.data.cleaning import spellings
from ftray.data.cleaning.faults import Faults
from ftray.data.dataset import read_dataset, read_source
from ftray.data.groups import groups_of
from ftray.data.readers.rows import Source
from ftray.data.sources import source_of
from ftray.data.split_rows import SplitRows
from ftray.errors import DataError
from ftray.models.artifact.groups import GroupMetrics, Groups, by_group
from ftray.models.artifact.named import NamedModel
from ftray.models.inference.loaded import LoadedModel
from ftray.models.inference.measure import Measured
from ftray.models.inference.reference import compared
from ftray.models.load import load_model
from ftray.spec.load import parse
from ftray.spec.schema import DataSpec
from ftray.tasks import get_task
from ftray.tasks.base import Judged, Metrics
from ftray.tasks.features import Examples
from ftray.tasks.labels import label_name
from ftray.tasks.per_label import LabelScore, label_scores

OWN_SPLIT = "test"
Columns = Mapping[str, str]
"""Logical column -> its name in a source; for a column that is not named, as in the model's
spec."""


class Wrong(NamedTuple):
    """A row for which the model's prediction is not the answer. score: the model's confidence."""

    row: dict[str, Any]
    prediction: Any
    score: float | None


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
    groups: tuple[GroupMetrics, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return all fields but the wrong rows."""
        named = {name: getattr(self, name) for name in ("model", "version", "data", "rows")}
        labels = [label._asdict() for label in self.labels]
        found = {**named, "metrics": self.metrics, "labels": labels}
        return found | ({"groups": [of.model_dump() for of in self.groups]} if self.groups else {})


def evaluate(
    model: NamedModel,
    source: str | None,
    columns: Columns,
    encoding: str | None,
    by: str | None = None,
) -> Evaluation:
    """Evaluate a model on the rows of `source`; None: on the test split of the model's own spec.
    `columns` and `encoding` are as in the model's spec unless given. by: a column of the source;
    the rows of each of its values are also measured by themselves.

    Raises DataError when the rows cannot be read or a label is none of the model's, ModelError
    when the model cannot be loaded or no longer gives its golden answers.
    """
    asked, read = _own_rows(model) if source is None else _rows_of(model, source, columns, encoding)
    rows, groups = read.table(where=True), groups_of(read, by, "--by") if by else None
    task = get_task(model.info.task)
    answers = rows.select([name for name in task.info.answers if name in rows.column_names])
    told = (label for row in answers.to_pylist() for label in task.labels_of(row))
    _require_known(told, model, source)
    loaded = load_model(model.folder, trust_remote_code=model.trust_remote_code)
    loaded.check_golden()
    examples = loaded.examples(
        {name: rows[name].to_pylist() for name in task.columns if name in rows.column_names}
    )
    spec = parse(model.info.spec)
    _admit(examples, rows, asked, spec.data)
    examples = compared(examples, spec, loaded.setup, loaded.batch_size)
    measured = loaded.measure(examples)
    count = rows.num_rows - len(examples.rejected)
    labels = model.info.labels if task.info.has_labels else ()
    found: tuple[LabelScore, ...] = ()
    if labels:
        found = tuple(label_scores(measured.truth, measured.predicted, labels))
    wrong = tuple(_wrong(rows, examples, measured, labels))
    about = (model.name, model.version, source or OWN_SPLIT, count)
    return Evaluation(*about, measured.metrics, found, wrong, _by_group(groups, examples, loaded))


def _by_group(
    groups: Groups | None, examples: Examples, model: LoadedModel
) -> tuple[GroupMetrics, ...]:
    if groups is None:
        return ()

    def measure(places: np.ndarray) -> Metrics:
        return model.measure(_taken(examples, places.tolist())).metrics

    return by_group(groups, np.array(examples.rows), measure)


def _taken(examples: Examples, places: Sequence[int]) -> Examples:
    features = {name: [of[place] for place in places] for name, of in examples.features.items()}
    return replace(examples, features=features, rows=[examples.rows[place] for place in places])


def _wrong(
    rows: pa.Table, examples: Examples, measured: Measured, labels: Sequence[str]
) -> Iterator[Wrong]:
    """Yield the rows with a wrong prediction, the largest error first."""
    best: dict[int, Judged] = {}
    for number, judged in zip(examples.rows, measured.judged, strict=False):
        if number not in best or judged.rank > best[number].rank:
            best[number] = judged
    columns = [name for name in rows.column_names if name != "where"]
    wrong = [(number, judged) for number, judged in best.items() if judged.error > 0]
    for number, judged in sorted(wrong, key=lambda found: -found[1].error):
        row = {name: rows[name][number].as_py() for name in columns}
        prediction = labels[judged.prediction] if labels else judged.prediction
        yield Wrong(row, prediction, judged.score)


def _admit(examples: Examples, rows: pa.Table, asked: Source, data: DataSpec) -> None:
    """Raise DataError for rows without examples, unless the spec skips bad rows, and where no other
    rows are left."""
    found = Faults.of(examples.rejected, lambda places: rows["where"].take(places).to_pylist())
    if found.total and data.on_bad_row == "fail":
        raise DataError(found.problem(asked, rows.num_rows))
    if not len(examples):
        raise found.none_left(asked)


def _require_known(labels: Iterable[str], model: NamedModel, source: str | None) -> None:
    known = {label_name(label) for label in model.info.labels}
    if unknown := Counter(label for label in labels if label not in known):
        raise DataError.of(
            "--data",
            source,
            f"labels that {model.reference} does not know: {spellings.counted(unknown)}",
            f"it knows {spellings.named(model.info.labels)}",
        )


def _own_rows(model: NamedModel) -> tuple[Source, SplitRows]:
    """Read the test split of the model's own spec. Return its source and its rows."""
    spec = parse(model.info.spec)
    dataset = read_dataset(spec)
    url = spec.data.test if isinstance(spec.data.test, str) else spec.data.train
    return source_of(url, OWN_SPLIT, spec.data, spec.info), dataset.splits[OWN_SPLIT]


def _rows_of(
    model: NamedModel, source: str, columns: Columns, encoding: str | None
) -> tuple[Source, SplitRows]:
    spec = parse(model.info.spec)
    named = {logical: columns.get(logical, own) for logical, own in spec.columns.items()}
    rows, _ = read_source(
        source,
        named,
        get_task(model.info.task),
        encoding or spec.data.encoding,
        spec.data.on_bad_row,
        csv=spec.data.csv,
        flags=spec.data.columns.flags,
    )
    return rows.source.source, rows
