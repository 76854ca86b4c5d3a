"""Reads the cells of a table: numbers, dates, categories and texts, as files and requests have
them."""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from ftray.tasks.labels import label_name
from ftray.tasks.text.blank import is_blank

Cell = str | int | float
"""A value of a clean row. A missing one is not in the row."""
_MISSING = frozenset(("", "?", "na", "n/a", "#n/a", "nan", "nat", "null"))
"""Texts that stand for a missing value, in lower case."""
# A leading zero makes a code of a number: 007.
_NUMBER = re.compile(r"[+-]?(0|[1-9][0-9]*)?(\.[0-9]*)?(?<=[0-9.])([eE][+-]?[0-9]{1,3})?")
_DOTTED = re.compile(r"(\d{1,2})\.(\d{1,2})\.(\d{4})")
_DAY = 86_400.0


class Unreadable(ValueError):
    """Raised for a value that no cell of a table has."""


def cell_of(value: Any) -> Cell | None:
    """Return a cell as clean rows have it, None for a missing one: a number, a date in ISO 8601, or
    a text without white space around it. Raises Unreadable."""
    if hasattr(value, "item") and not isinstance(value, (list, dict)):
        value = value.item()  # of numpy
    if value is None or isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, (int, float)):
        if isinstance(value, float) and not math.isfinite(value):
            raise Unreadable("an infinite number")
        return value
    if isinstance(value, date):
        return value.isoformat() if value == value else None  # pandas' NaT is not itself
    if isinstance(value, str):
        text = " ".join(value.split())
        return None if text.lower() in _MISSING or is_blank(text) else text
    raise Unreadable(f"{type(value).__name__}, which is no number, text or date")


def number_of(cell: Cell) -> float | None:
    """Return the number in a cell; None where it is no finite number."""
    if isinstance(cell, str):
        if cell in ("", ".") or _NUMBER.fullmatch(cell) is None:
            return None
        cell = float(cell)
    try:
        number = float(cell)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def moment_of(cell: Cell) -> datetime | None:
    """Return the time in a cell: ISO 8601, with slashes for dashes too, or day.month.year; None
    where it is none."""
    if not isinstance(cell, str) or not cell[:1].isdigit() or cell.isdigit():
        return None
    try:
        if dotted := _DOTTED.fullmatch(cell):
            found = datetime(int(dotted[3]), int(dotted[2]), int(dotted[1]))
        else:
            found = datetime.fromisoformat(cell.replace("/", "-"))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def days_of(moment: datetime) -> float:
    """Return the days from 1970 to a time."""
    return moment.timestamp() / _DAY


def category_of(cell: Cell) -> str:
    """Return the name of a category: 1, 1.0 and the text "1" are the same."""
    return label_name(cell)
