"""How good a model is on rows with labels: its own test split, or any other source."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from ftray.data.dataset import read_dataset
from ftray.data.sources import read_source
from ftray.errors import DataError, shorten
from ftray.models.predictor import Predictor
from ftray.serve.settings import ServedModel
from ftray.spec.load import parse
from ftray.tasks import get_task

OWN_SPLIT = "test"


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
    columns: dict[str, str],
    encoding: str | None,
) -> Evaluation:
    """`columns` and `encoding` are as in the model's spec unless given.

    Raises DataError when the rows cannot be read or a label is none of the model's, ModelError
    when the model cannot be loaded or no longer gives its golden answers.
    """
    rows = _own_rows(model) if source is None else _rows_of(model, source, columns, encoding)
    unknown = sorted(set(rows["label"].unique().to_pylist()) - set(model.info.labels))
    if unknown:
        raise DataError.of(
            "--data",
            source,
            f"labels that {model.reference} does not know: {shorten(', '.join(unknown))}",
            f"it knows {shorten(', '.join(model.info.labels))}",
        )
    predictor = Predictor(model.folder)
    predictor.check_golden()
    metrics = predictor.evaluate(rows["text"].to_pylist(), rows["label"].to_pylist())
    return Evaluation(model.name, model.version, source or OWN_SPLIT, rows.num_rows, metrics)


def _own_rows(model: ServedModel) -> pa.Table:
    return read_dataset(parse(model.info.spec)).splits[OWN_SPLIT]


def _rows_of(
    model: ServedModel, source: str, columns: dict[str, str], encoding: str | None
) -> pa.Table:
    data = parse(model.info.spec).data
    table, _, _ = read_source(
        source,
        {**data.columns.model_dump(), **columns},
        get_task(model.info.task),
        encoding or data.encoding,
        data.on_bad_row,
    )
    return table
