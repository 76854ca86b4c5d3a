"""Reads JSON files: one object on each line, or one document that holds all rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

from ftray.data.readers import stream
from ftray.data.readers.batch import BATCH_ROWS, RawBatch, batched
from ftray.data.readers.json_array import elements
from ftray.data.readers.json_document import rows_in
from ftray.data.readers.rows import Source, shown
from ftray.errors import FtrayError
from ftray.store.files.location import Location
from ftray.tasks.base import BadRow

_DEEPEST = 64
_DECODER = json.JSONDecoder()
Line = tuple[int, str]
"""Number of a line, and its text with its end."""
Item = tuple[int, Any, Any]
"""Number of the line or row, its raw form, and its value: a BadRow where it is not JSON."""


def read_json(file: Location, source: Source) -> Iterator[RawBatch]:
    """Yield the rows of a file with one object on each line, or of one document (on one or many
    lines) in which `rows_in` finds the rows."""
    name = shown(file)
    seen: dict[str, None] = {}
    for items in _items(enumerate(stream.lines(file, source), 1), name, source):
        rows: list[dict[str, Any]] = []
        faults = {}
        for index, (_, raw, item) in enumerate(items):
            if isinstance(item, dict) and not _is_deep(item, raw):
                rows.append(item)
            else:
                rows.append({"line": raw if isinstance(raw, str) or not _is_deep(raw) else "..."})
                faults[index] = _fault(item)
        read = (row for index, row in enumerate(rows) if index not in faults) if faults else rows
        seen.update(dict.fromkeys(chain.from_iterable(read)))
        yield RawBatch(rows, name, [number for number, _, _ in items], faults)
    if seen:
        # A key may be missing on some lines, but not on all of them.
        source.columns_in(list(seen), name)


def _items(lines: Iterator[Line], name: str, source: Source) -> Iterator[list[Item]]:
    filled = (line for line in lines if line[1].strip())
    start = list(islice(filled, 2))
    if not start:
        raise source.error(f"{name} is empty", "name a file with rows")
    first = start[0][1]
    value = _parsed(first)
    if isinstance(value, BadRow) and first.lstrip()[0] == "[":
        yield from _array((line for _, line in chain(start, lines)), name, source)
    elif isinstance(value, BadRow) and first.lstrip()[0] == "{":
        yield from batched(_document([*start, *filled], name, source), BATCH_ROWS)
    elif len(start) == 1 and isinstance(value, (dict, list)):
        yield from batched(_numbered(rows_in(value, name, source)), BATCH_ROWS)
    else:
        for some in batched(chain(start, lines), BATCH_ROWS, lambda line: len(line[1])):
            yield _a_line_each(some)


def _a_line_each(lines: Iterable[Line]) -> list[Item]:
    """Return the values of the lines that are not blank."""
    items = []
    for number, line in lines:
        bare = line.rstrip("\r\n")
        try:
            value, end = _DECODER.raw_decode(bare)
        except (ValueError, RecursionError):
            if not bare.strip():
                continue
            end = -1
        items.append((number, bare, value if end == len(bare) else _parsed(line)))
    return items


def _array(lines: Iterator[str], name: str, source: Source) -> Iterator[list[Item]]:
    number = 0
    try:
        for some in batched(elements(lines), BATCH_ROWS, lambda found: found[1]):
            yield [(number + at, value, value) for at, (value, _) in enumerate(some, 1)]
            number += len(some)
    except (ValueError, RecursionError) as error:
        raise _no_json(name, source, _not_json(error)) from None


def _no_json(name: str, source: Source, why: BadRow) -> FtrayError:
    return source.error(
        f"{name} is no JSON, neither as a whole nor line by line: {why.detail}",
        "mend it, or write one object a line",
    )


def _document(lines: list[Line], name: str, source: Source) -> Iterator[Item]:
    """Yield the rows of a text whose first line is not JSON by itself."""
    text = "".join(line for _, line in lines)
    value = _parsed(text)
    if not isinstance(value, BadRow):
        yield from _numbered(rows_in(value, name, source))
    elif len(objects := _one_after_the_other(text)) > 1:
        yield from _numbered(objects)
    elif not any(_is_object(line) for _, line in lines):
        raise _no_json(name, source, value)
    else:
        yield from _a_line_each(lines)


def _one_after_the_other(text: str) -> list[Any]:
    """Return the values of a text of consecutive JSON values, which may span several lines each;
    an empty list for any other text."""
    decoder, values, place = json.JSONDecoder(), [], 0
    try:
        while place < len(text):
            value, place = decoder.raw_decode(text, place)
            values.append(value)
            while place < len(text) and text[place].isspace():
                place += 1
    except (ValueError, RecursionError):
        return []
    return values


def _is_object(line: str) -> bool:
    return isinstance(_parsed(line), dict)


def _numbered(items: Sequence[Any]) -> Iterator[Item]:
    for number, item in enumerate(items, 1):
        yield number, item, item


def _parsed(text: str) -> Any:
    """Return the value of a JSON text; a BadRow where the text is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        return _not_json(error)


def _not_json(error: Exception) -> BadRow:
    if isinstance(error, json.JSONDecodeError):
        return BadRow("not_json", str(error))
    if isinstance(error, RecursionError):
        return BadRow("not_json", "nested too deeply")
    return BadRow("not_json", "a number of thousands of digits")


def _fault(item: Any) -> BadRow:
    if isinstance(item, BadRow):
        return item
    deep = isinstance(item, dict)
    return BadRow("not_json", "nested too deeply" if deep else "not an object")


def _is_deep(item: Any, raw: Any = None) -> bool:
    """Return whether lists and objects in `item` are nested deeper than `_DEEPEST` levels, which no
    code that reads rows expects. raw: its text, where it was read of a line."""
    if isinstance(raw, str) and raw.count("{") + raw.count("[") <= _DEEPEST:
        return False
    level = _inner([item])
    for _ in range(_DEEPEST):
        level = [inner for outer in level for inner in _inner(outer)]
        if not level:
            return False
    return True


def _inner(value: Any) -> list[Any]:
    values = value.values() if isinstance(value, dict) else value
    return [inner for inner in values if isinstance(inner, (dict, list))]
