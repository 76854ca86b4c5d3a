"""Finds the rows in a JSON document that holds all of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from ftray.data.readers.rows import Source

_DEPTH = 4
_SHOWN = 8


def rows_in(document: Any, name: str, source: Source) -> list[Any]:
    """Return the rows of the document in the file `name`, which has one of these forms:

    an array of rows; an array of rows below a key; one row; rows by their ids; a list of values for
    each column; and the forms that pandas writes: values by row for each column, or columns and
    data.

    Adds a note to the source that says where the rows are. Raises DataError where there are none.
    """
    if isinstance(document, list):
        return document
    needed = set(source.named.values())
    if (rows := _by_column(document, needed)) is not None:
        source.note(f"{name} holds a list of values a column")
        return rows
    found = dict(_lists(document, "", _DEPTH))
    if not found or not needed.isdisjoint(document):
        return [document]
    fitting = {key: rows for key, rows in found.items() if _have(rows, needed)}
    if len(fitting) == 1 or len(found) == 1:
        ((key, rows),) = (fitting or found).items()
        source.note(f"{name}: the rows are below {key}")
        return rows
    keys = ", ".join(list(found)[:_SHOWN])
    raise source.error(f"{name} holds several lists of rows: {keys}", "write one object a line")


def _by_column(document: dict[str, Any], needed: Collection[str]) -> list[Any] | None:
    """Return the rows of a document that is written column by column; None for any other."""
    names, data = document.get("columns"), document.get("data")
    if names and data and _are(names, str) and _are(data, list):
        return [dict(zip(names, row, strict=False)) for row in data]
    columns = [document[name] for name in needed if name in document]
    if not columns or any(_are(column, dict) for column in columns):
        return None  # a column that is a list of objects is one row's chat: the objects are turns
    kinds = (list, dict)
    kind = next((kind for kind in kinds if all(isinstance(c, kind) for c in columns)), None)
    if kind is None:
        return None
    told: dict[str, Any] = {
        name: column for name, column in document.items() if isinstance(column, kind)
    }
    if len({len(column) for column in told.values()}) > 1:
        return None
    if kind is dict:
        ids = next(iter(told.values()))
        if any(column.keys() != ids.keys() for column in told.values()):
            return None
        told = {name: [column[row] for row in ids] for name, column in told.items()}
    return [dict(zip(told, values, strict=True)) for values in zip(*told.values(), strict=True)]


def _lists(value: dict[str, Any], path: str, depth: int) -> Iterator[tuple[str, list[Any]]]:
    """Yield the key path and the content of each list of objects in `value` that may be rows."""
    for key, inner in value.items():
        where = f"{path}.{key}" if path else key
        if _are(inner, dict):
            yield where, inner
        elif isinstance(inner, dict) and depth:
            if _are(rows := list(inner.values()), dict):
                yield where, rows
            yield from _lists(inner, where, depth - 1)
    if not path and _are(rows := list(value.values()), dict):
        yield "their ids", rows


def _have(rows: list[Any], needed: Collection[str]) -> bool:
    return any(name in rows[0] for name in needed)


def _are(values: Any, kind: type) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(v, kind) for v in values)
