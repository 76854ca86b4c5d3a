"""How good a model is on rows with labels: its own test split, or any other source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from ftray.data import spellings
from ftray.data.dataset import read_dataset
from ftray.data.sources import read_source
from ftray.errors import DataError
from ftray.models.load import load_model
from ftray.serve.settings import ServedModel
from ftray.spec.load import parse
from ftray.tasks import get_task
from ftray.tasks.labels import label_name

OWN_SPLIT = "test"
Columns = tuple[str | None, str | None]
"""Names in a source, where they are not those of the model's spec."""


@dataclass(frozen=True)
class Evaluation:
    model: str
    version: int | None
    data: str
    """The source, or `test`: the test split of the model's own spec."""
    rows: int
    metrics: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def evaluate(
    model: ServedModel,
    source: str | None,
    columns: Columns,
    encoding: str | None,
) -> Evaluation:
    """`columns` (of what is asked, and of the answers) and `encoding` are as in the model's spec
    unless given.

    Raises DataError when the rows cannot be read or a label is none of the model's, ModelError
    when the model cannot be loaded or no longer gives its golden answers.
    """
    rows = _own_rows(model) if source is None else _rows_of(model, source, columns, encoding)
    task = get_task(model.info.task)
    if task.has_labels:
        _require_known(rows["label"].to_pylist(), model, source)
    loaded = load_model(model.folder)
    loaded.check_golden()
    metrics = loaded.evaluate({column: rows[column].to_pylist() for column in task.columns})
    return Evaluation(model.name, model.version, source or OWN_SPLIT, rows.num_rows, metrics)


def _require_known(labels: Sequence[str], model: ServedModel, source: str | None) -> None:
    known = {label_name(label) for label in model.info.labels}
    if unknown := Counter(label for label in labels if label not in known):
        raise DataError.of(
            "--data",
            source,
            f"labels that {model.reference} does not know: {spellings.counted(unknown)}",
            f"it knows {spellings.named(model.info.labels)}",
        )


def _own_rows(model: ServedModel) -> pa.Table:
    return read_dataset(parse(model.info.spec)).splits[OWN_SPLIT]


def _rows_of(model: ServedModel, source: str, columns: Columns, encoding: str | None) -> pa.Table:
    spec = parse(model.info.spec)
    if columns[1] is not None and len(spec.columns) < 2:
        problem = f"{model.reference} has what is asked and its answer in one column"
        raise DataError.of("--label", columns[1], problem, "leave it out")
    named = zip(spec.columns.items(), columns, strict=False)
    table, _, _ = read_source(
        source,
        {logical: given or own for (logical, own), given in named},
        get_task(model.info.task),
        encoding or spec.data.encoding,
        spec.data.on_bad_row,
        csv=spec.data.csv,
    )
    return table
