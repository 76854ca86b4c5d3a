"""Reads the files that rows name in a column: images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

from ftray.data.readers.batch import FILES_TOGETHER, RawBatch
from ftray.data.readers.rows import Source
from ftray.store.files.location import Location, locate
from ftray.tasks.base import BadRow

READS_AT_ONCE = 16


def with_contents(
    batches: Iterable[RawBatch], folder: Location, source: Source
) -> Iterator[RawBatch]:
    """Yield `batches` with the contents of the files that their rows name, in pieces of
    `FILES_TOGETHER` rows. A path is relative to `folder`, unless it is absolute or a URL."""
    columns = source.file_columns
    if not columns:
        yield from batches
        return
    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        for batch in batches:
            for start in range(0, len(batch), FILES_TOGETHER):
                places = range(start, min(start + FILES_TOGETHER, len(batch)))
                yield _with_contents(batch.take(places), columns, folder, pool)


def _with_contents(
    batch: RawBatch, columns: list[str], folder: Location, pool: ThreadPoolExecutor
) -> RawBatch:
    faults, contents = dict(batch.faults), {}
    for name in columns:
        named = [None if i in faults else value for i, value in enumerate(batch.column(name))]
        found = list(pool.map(partial(_read, folder), named))
        for index, content in enumerate(found):
            if isinstance(content, BadRow):
                faults.setdefault(index, content)
        contents[name] = [None if isinstance(content, BadRow) else content for content in found]
    return replace(batch, faults=faults, contents=contents)


def _read(folder: Location, value: Any) -> bytes | BadRow | None:
    if not isinstance(value, str) or not value:
        return None
    file = locate(value) if "://" in value or value.startswith("/") else folder / value
    try:
        return file.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return BadRow("missing_file", value[:80])
