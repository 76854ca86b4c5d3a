"""The input side of tasks that read the rows of a table."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ftray.tasks.base import BadRow, Example, Examples, Question, Row, Spend, TaskSetup, free
from ftray.tasks.features import Feature
from ftray.tasks.info import Modality
from ftray.tasks.schema import Schema
from ftray.tasks.tabular.cells import Unreadable, cell_of
from ftray.tasks.tabular.columns import Column, Kind
from ftray.tasks.tabular.inference import RECORD, Sample, fit_columns
from ftray.tasks.tabular.pieces import VALUES, Record, RowWriter, values_of
from ftray.tasks.text.texts import Texts, random_text

_DATES = np.datetime64("2000-01-01"), np.datetime64("2030-01-01")


class TableOptions(BaseModel):
    """Options of the spec's section `task_options`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    columns: Mapping[str, Kind] = Field(
        {}, description="Kinds of columns where the one that is found is wrong."
    )
    bins: int = Field(32, ge=2, le=1024, description="Bins of a number in a model of its own.")


_DEFAULTS = TableOptions()


def clean_record(value: Any) -> str:
    """Return the cells of a source row as JSON, with null for a missing one. value: column -> raw
    value, or such an object in JSON. Raises BadRow."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise BadRow("record_not_an_object", value[:80]) from None
    if not isinstance(value, Mapping):
        raise BadRow("record_not_an_object", repr(value)[:80])
    cells = {}
    for name, raw in value.items():
        try:
            cells[str(name)] = cell_of(raw)
        except Unreadable as fault:
            raise BadRow("unreadable_cell", f"{name}: {fault}"[:160]) from None
    if not cells:
        raise BadRow("empty_row")
    return json.dumps(cells, ensure_ascii=False)


@lru_cache(maxsize=8)
def _writer(tokenizer: Any, columns: tuple[Column, ...]) -> RowWriter:
    return RowWriter(tokenizer, columns)


def writer_of(setup: TaskSetup) -> RowWriter:
    """Return what makes the text of rows for the setup's tokenizer. Raises ModelError."""
    return _writer(setup.processor, setup.schema.columns)


class Records(Texts):
    """Rows of a table, which become texts for the model's tokenizer. A question is the row's cells
    by column."""

    fitted: tuple[str, ...] | None = None

    def ask(self, values: Mapping[str, Any]) -> Question:
        return json.loads(clean_record(values[RECORD]))

    def question(self, row: Row) -> Question:
        return json.loads(row[RECORD])

    def is_blank(self, question: Question) -> bool:
        return not question

    def key(self, row: Row) -> str:
        return json.dumps(json.loads(row[RECORD]), sort_keys=True).casefold()

    def size(self, question: Question) -> int:
        if isinstance(question, str):  # the text of a row
            return len(question)
        return sum(len(name) + len(str(cell)) for name, cell in question.items())

    def fit(self, rows: Iterable[Row], options: BaseModel = _DEFAULTS) -> Schema:
        """Return the schema with the columns of the table. Raises DataError."""
        assert isinstance(options, TableOptions)
        sample = Sample()
        passing = sample.passing(rows)
        schema = super().fit(passing, options)
        deque(passing, 0)  # a task without answers reads no rows itself
        columns = fit_columns(sample.records(), options.columns, options.bins)
        return schema.model_copy(update={"columns": columns})

    def texts(self, setup: TaskSetup, questions: Iterable[Record]) -> list[str]:
        """Return the text that the tokenizer reads of each row."""
        writer = writer_of(setup)
        return [writer.text(question) for question in questions]

    def features(self, setup: TaskSetup) -> dict[str, Feature]:
        wide = len(setup.schema.value_columns)
        values = {VALUES: Feature("float32", (wide,), "host")} if wide else {}
        return {**super().features(setup), **values}

    def encode(
        self, setup: TaskSetup, questions: Sequence[Question], spend: Spend = free
    ) -> list[list[Example]]:
        return super().encode(setup, self.texts(setup, questions), spend)

    def lengths(self, setup: TaskSetup, questions: Sequence[Question]) -> list[int]:
        return super().lengths(setup, self.texts(setup, questions))

    def read(self, setup: TaskSetup, rows: Mapping[str, Sequence[Any]]) -> Examples:
        records = [json.loads(record) for record in rows[RECORD]]
        found, columns = (
            self.read_each(setup, self.texts(setup, records)),
            setup.schema.value_columns,
        )
        if columns:
            values = [values_of(records[place], columns) for place in found.rows]
            found.features[VALUES] = [np.array(of, np.float32) for of in values]
        return found

    def made_up(
        self, setup: TaskSetup, inputs: Mapping[str, Modality], size: int, draw: np.random.Generator
    ) -> Question:
        made: dict[str, Any] = {}
        for column in setup.schema.columns:
            if column.name not in inputs:
                continue
            if column.kind == "category":
                made[column.name] = str(draw.choice(column.values)) if column.values else "other"
            elif column.kind == "date":
                first, last = _DATES
                made[column.name] = str(first + draw.integers((last - first).astype(int)))
            elif column.kind == "number":
                middle = draw.choice(column.edges) if column.edges else 0.0
                made[column.name] = float(middle + draw.normal())
            else:
                made[column.name] = random_text(setup.processor, size, draw)
        return made
