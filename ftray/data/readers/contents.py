"""Reads the files that rows name in a column, and files that are rows themselves: images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice

from ftray.data.readers.rows import RawRow, Source, shown
from ftray.store.files.location import Location, locate
from ftray.tasks.base import BadRow

_READS_AT_ONCE = 16
_TOGETHER = 256


def with_contents(rows: Iterable[RawRow], folder: Location, source: Source) -> Iterator[RawRow]:
    """Yield `rows` with the contents of the files that they name. A path is relative to `folder`,
    unless it is absolute or a URL."""
    columns = source.file_columns
    if not columns:
        yield from rows
        return
    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
        waiting = iter(rows)
        while some := list(islice(waiting, _TOGETHER)):
            yield from pool.map(partial(_with_contents, columns, folder), some)


def _with_contents(columns: list[str], folder: Location, row: RawRow) -> RawRow:
    contents = {}
    for name in columns:
        value = row.values.get(name)
        if not isinstance(value, str) or not value or row.fault is not None:
            continue
        file = locate(value) if "://" in value or value.startswith("/") else folder / value
        try:
            contents[name] = file.read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return row._replace(fault=BadRow("missing_file", value[:80]))
    return row._replace(contents=contents)


def file_row(content: bytes, label: str | None, file: Location, source: Source) -> RawRow:
    """Return the row of one file, from the sub-folder `label` where it has one."""
    (name,) = source.file_columns
    values = {name: shown(file)}
    if "label" in source.columns and label is not None:
        values[source.columns["label"]] = label
    return RawRow(values, shown(file), contents={name: content})
