"""The types of the fields of a record in a request, by the kind of their values, and of lists of
items. A field may be left out or null: its value is then missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from ftray.serve.schemas import MAX_ITEMS, MAX_TEXT
from ftray.tasks.base import BadRow
from ftray.tasks.info import Modality
from ftray.tasks.recommendation.items import items_of
from ftray.tasks.tabular.cells import Cell, Unreadable, cell_of, moment_of, number_of


def _cell(value: Any) -> Cell | None:
    try:
        cell = cell_of(value)
    except Unreadable as fault:
        raise ValueError(f"it is {fault}") from None
    if isinstance(cell, str) and len(cell) > MAX_TEXT:
        raise ValueError(f"{MAX_TEXT:,} characters are the limit")
    return cell


def _number(value: Any) -> float | None:
    cell = _cell(value)
    number = None if cell is None else number_of(cell)
    if cell is not None and (number is None or isinstance(value, bool)):
        raise ValueError(f"a number is wanted, or null, not {value!r}"[:120])
    return number


def _date(value: Any) -> Cell | None:
    cell = _cell(value)
    if cell is not None and moment_of(cell) is None:
        raise ValueError(f"a date as 2026-01-31 is wanted, or null, not {value!r}"[:120])
    return cell


def _field(read: Any, **schema: Any) -> Any:
    return Annotated[Any, BeforeValidator(read), WithJsonSchema(schema)]


_SCALAR = ["string", "number", "boolean", "null"]
FIELD_TYPES: Mapping[Modality, Any] = {
    "number": _field(_number, type=["number", "null"]),
    "category": _field(_cell, type=_SCALAR),
    "date": _field(_date, type=["string", "null"], examples=["2026-01-31"]),
    "note": _field(_cell, type=_SCALAR, maxLength=MAX_TEXT),
}
"""Kind of a field -> its type in JSON."""


def _items(value: Any) -> list[str]:
    """Return the names in a list of items, or in such a list as JSON."""
    try:
        found = items_of(value)
    except BadRow as fault:
        raise ValueError(
            f"a list of names is wanted, and here: {fault.kind} {fault.detail}"
        ) from None
    if not 1 <= len(found) <= MAX_ITEMS:
        raise ValueError(f"1 to {MAX_ITEMS:,} items are wanted, not {len(found):,}")
    return found


ITEM_LIST = _field(
    _items,
    type="array",
    items={"type": ["string", "number"]},
    minItems=1,
    maxItems=MAX_ITEMS,
)
"""Type of a list of items."""
