"""Makes the text of a row, which the model's tokenizer reads: tokens of a table's own model, or
words for a model of language."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ftray.errors import ModelError
from ftray.tasks.new_shape import SEPARATOR
from ftray.tasks.tabular.cells import Cell, category_of, days_of, moment_of, number_of
from ftray.tasks.tabular.columns import Column

COLUMNS = "columns"
"""Key of a table's tokenizer, in tokenizer_config.json: the columns that it was made for."""
VALUES = "values"
"""Feature on the host: the cells of a row as numbers, which trees read."""
ABSENT = float("-inf")
"""Value of a missing cell."""
_NOTHING = "nothing is known"
"""Words for a row in which all cells are missing."""
Record = Mapping[str, Cell | None]
"""The cells of a row by column; a column that is not there is missing."""


def own_columns(tokenizer: Any) -> list[Column] | None:
    """Return the columns that a tokenizer was made for; None for a tokenizer of language."""
    told = tokenizer.init_kwargs.get(COLUMNS)
    return None if told is None else [Column.model_validate(column) for column in told]


class RowWriter:
    """Makes the text of rows for one tokenizer.

    columns: those that were fitted to the training rows. The columns that a table's tokenizer was
    made for come before them: a model that was trained on rows of the same table keeps its bins.
    """

    def __init__(self, tokenizer: Any, columns: Sequence[Column]) -> None:
        """Raises ModelError where the tokenizer was made for other columns."""
        own = own_columns(tokenizer)
        self.is_own = own is not None
        self._mask = tokenizer.mask_token
        read = [column for column in columns if column.is_read]
        if own is not None:
            _check_alike(read, own)
            read = [column for column in own if column.tokens]
        self.columns = read
        self._known = {column.name: frozenset(column.values) for column in read}

    def text(self, record: Record) -> str:
        """Return the text of a row; empty where it has none of the columns."""
        if not any(column.name in record for column in self.columns):
            return ""
        if self.is_own:
            return SEPARATOR.join(
                piece for of in self.columns for piece in self._pieces(of, record)
            )
        told = (_words(of.name, record.get(of.name)) for of in self.columns)
        return ", ".join(words for words in told if words) or _NOTHING

    def _pieces(self, column: Column, record: Record) -> Iterator[str]:
        """Yield the tokens of a cell."""
        cell = record.get(column.name)
        size = 3 if column.kind == "date" else 1
        if cell is not None and cell == self._mask:
            yield from [self._mask] * size
            return
        if column.kind == "category" and cell is not None:
            name = category_of(cell)
            known = name in self._known[column.name]
            yield plain(column.value_token(name) if known else column.unseen_token)
            return
        number = None if cell is None else number_in(column, cell)
        if number is None or cell is None:
            yield from [plain(column.missing_token)] * size
            return
        yield plain(column.bin_token(bisect_right(column.edges, number)))
        if column.kind == "date" and (moment := moment_of(cell)) is not None:
            yield plain(column.part_token("month", moment.month))
            yield plain(column.part_token("weekday", moment.weekday()))


def values_of(record: Record, columns: Sequence[Column]) -> list[float]:
    """Return the cells of a row as numbers: a number itself, a date in days, a category by its
    place in the vocabulary."""
    return [_value(column, record.get(column.name)) for column in columns]


def _value(column: Column, cell: Cell | None) -> float:
    if cell is None:
        return ABSENT
    if column.kind == "category":
        name = category_of(cell)
        place = bisect_left(column.values, name)
        known = place < len(column.values) and column.values[place] == name
        return float(place if known else len(column.values))
    number = number_in(column, cell)
    return ABSENT if number is None else number


def plain(token: str) -> str:
    """Return a token without the character that separates tokens."""
    return " ".join(token.split())


def number_in(column: Column, cell: Cell) -> float | None:
    """Return the number of a cell, or the days of a date; None where it has none."""
    if column.kind == "date":
        moment = moment_of(cell)
        return None if moment is None else days_of(moment)
    return number_of(cell)


def _words(name: str, cell: Cell | None) -> str:
    """Return a cell in words; empty where it is missing."""
    if cell is None:
        return ""
    shown = f"{cell:g}" if isinstance(cell, float) else str(cell)
    return f"{name.replace('_', ' ')}: {shown}"


def _check_alike(fitted: Sequence[Column], own: Sequence[Column]) -> None:
    """Raise ModelError where the model lacks a column, or read another kind of it."""
    kinds = {column.name: column.kind for column in own}
    for column in fitted:
        kind = kinds.get(column.name, "ignore")
        if kind != column.kind:
            had = "has no such column" if kind == "ignore" else f"read it as {kind}"
            raise ModelError.of(
                f"task_options.columns.{column.name}",
                column.kind,
                f"the model in model.name_or_path {had}",
                f"set task_options.columns.{column.name}: {kind}",
            )
