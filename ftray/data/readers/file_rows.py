"""Reads files that are rows themselves, one row each: images, or texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from ftray.data.readers import stream
from ftray.data.readers.batch import FILES_TOGETHER, RawBatch, batched
from ftray.data.readers.contents import READS_AT_ONCE
from ftray.data.readers.rows import Source, shown
from ftray.store.files.location import Location


def file_batches(
    files: Sequence[tuple[Location, str | None]], source: Source
) -> Iterator[RawBatch]:
    """Yield one row for each file. files: with the label of each, None where it has none. Raises
    DataError."""
    # Read files in parallel: one by one, many small files of an object store would take minutes.
    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        for some in batched(files, FILES_TOGETHER):
            contents = pool.map(partial(stream.read_bytes, source=source), [f for f, _ in some])
            yield (_images if source.files else _texts)(some, list(contents), source)


def _images(
    files: Sequence[tuple[Location, str | None]], contents: list[bytes], source: Source
) -> RawBatch:
    (name,) = source.file_columns
    places = [shown(file) for file, _ in files]
    rows: list[dict[str, str]] = [{name: place} for place in places]
    for row, (_, label) in zip(rows, files, strict=True):
        if "label" in source.columns and label is not None:
            row[source.columns["label"]] = label
    return RawBatch(rows, "", places, contents={name: contents})


def _texts(
    files: Sequence[tuple[Location, str | None]], contents: list[bytes], source: Source
) -> RawBatch:
    if "text" not in source.columns:
        raise source.error(
            f"a folder of texts has no {' and no '.join(source.columns)}",
            "name a file with these columns, or data.columns.text",
        )
    rows = []
    for (file, label), raw in zip(files, contents, strict=True):
        row: dict[str, str | None] = {source.columns["text"]: stream.decode(raw, file, source)}
        if "label" in source.columns:
            row[source.columns["label"]] = label
        rows.append(row)
    return RawBatch(rows, "", [f"{shown(file)}:1" for file, _ in files])
