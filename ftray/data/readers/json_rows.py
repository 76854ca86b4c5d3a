"""Reads JSON files: one object on each line, or one document that holds all rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from ftray.data.readers import stream
from ftray.data.readers.batch import BATCH_ROWS, RawBatch, batched
from ftray.data.readers.json_document import rows_in
from ftray.data.readers.rows import Source, shown
from ftray.store.files.location import Location
from ftray.tasks.base import BadRow

_DEEPEST = 64
_DECODER = json.JSONDecoder()
Item = tuple[int, Any, Any]
"""Number of the line or row, its raw form, and its value: a BadRow where it is not JSON."""


def read_json(file: Location, source: Source) -> Iterator[RawBatch]:
    """Yield the rows of a file with one object on each line, or of one document (on one or many
    lines) in which `rows_in` finds the rows."""
    name = shown(file)
    seen: dict[str, None] = {}
    for items in batched(_items(_filled(file, source), name, source), BATCH_ROWS, _size):
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


def _size(item: Item) -> int:
    return len(item[1]) if isinstance(item[1], str) else 0  # a document is in memory already


def _filled(file: Location, source: Source) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, with their numbers."""
    for number, line in enumerate(stream.lines(file, source), 1):
        if line.strip():
            yield number, line


def _items(lines: Iterator[tuple[int, str]], name: str, source: Source) -> Iterator[Item]:
    start = [*zip(range(2), lines, strict=False)]
    if not start:
        raise source.error(f"{name} is empty", "name a file with rows")
    (number, first), *more = [line for _, line in start]
    value = _parsed(first)
    if isinstance(value, BadRow) and first.lstrip()[0] in "[{":
        yield from _document([(number, first), *more, *lines], name, source)
    elif not more and isinstance(value, (dict, list)):
        yield from _numbered(rows_in(value, name, source))
    else:
        yield from _a_line_each(chain([(number, first)], more, lines))


def _a_line_each(lines: Iterator[tuple[int, str]] | Sequence[tuple[int, str]]) -> Iterator[Item]:
    for number, line in lines:
        bare = line.rstrip("\r\n")
        try:
            value, end = _DECODER.raw_decode(bare)
        except (ValueError, RecursionError):
            end = -1
        yield number, bare, value if end == len(bare) else _parsed(line)


def _document(lines: list[tuple[int, str]], name: str, source: Source) -> Iterator[Item]:
    """Yield the rows of a text whose first line is not JSON by itself."""
    text = "".join(line for _, line in lines)
    value = _parsed(text)
    if not isinstance(value, BadRow):
        yield from _numbered(rows_in(value, name, source))
    elif len(objects := _one_after_the_other(text)) > 1:
        yield from _numbered(objects)
    elif text.lstrip().startswith("[") or not any(_is_object(line) for _, line in lines):
        raise source.error(
            f"{name} is no JSON, neither as a whole nor line by line: {value.detail}",
            "mend it, or write one object a line",
        )
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
    except json.JSONDecodeError as error:
        return BadRow("not_json", str(error))
    except RecursionError:
        return BadRow("not_json", "nested too deeply")
    except ValueError:
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
