"""The small parts of a page: facts, tables, bars."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from ftray.reports.page import number, shown


@dataclass(frozen=True)
class Fact:
    """A large number at the top of a page."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell of a table. shown: text, or markup of a plot; sort: by what its column is sorted, None
    for the text itself."""

    shown: Any
    sort: float | str | None = None


@dataclass(frozen=True)
class Table:
    """numeric, long: indices of the columns with numbers, and of those with long texts; chosen:
    indices of the rows that stand out."""

    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numeric: Collection[int] = ()
    long: Collection[int] = ()
    chosen: Collection[int] = ()
    sortable: bool = False


@dataclass(frozen=True)
class Bar:
    """A bar of a list. share: of the longest bar; rest: what lies beside it in another colour."""

    name: str
    value: str
    share: float
    rest: float = 0.0


def table_of(
    name: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    long: Collection[int] = (),
    chosen: Collection[int] = (),
    sortable: bool = False,
) -> Table:
    """Make a table of plain values and cells. A column of numbers alone is shown as one."""
    values = [list(row) for row in rows]
    numeric = {
        place
        for place in range(len(columns))
        if any(_is_number(row[place]) for row in values)
        and all(_is_number(row[place]) or row[place] in (None, "") for row in values)
    }
    cells = [[_cell(value) for value in row] for row in values]
    return Table(name, columns, cells, numeric, long, chosen, sortable)


def interval(value: float, low: float, high: float) -> Cell:
    """Return a cell with an interval under the value."""
    shown = Markup("{}<small>{} to {}</small>").format(*map(number, (value, low, high)))
    return Cell(shown, value)


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value.sort, (int, float)) if isinstance(value, Cell) else is_number(value)


def _cell(value: Any) -> Cell:
    if isinstance(value, Cell):
        return value
    if _is_number(value):
        return Cell(number(value), float(value) if value == value else "")
    return Cell("" if value is None else shown(value), "" if value is None else None)
