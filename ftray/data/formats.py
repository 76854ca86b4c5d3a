"""From one file to its rows: CSV, JSON lines, Parquet, Arrow, and plain text."""

from __future__ import annotations

import codecs
import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from ftray.data.rows import RawRow, Source, shown
from ftray.errors import DataError
from ftray.store.location import Location
from ftray.tasks.base import BadRow

Reader = Callable[[Location, Source], Iterator[RawRow]]

COMPRESSED = (".gz", ".bz2", ".zst", ".lz4")
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def suffix(name: str) -> str:
    """The lower-case suffix that says the format: '.csv' for both a.CSV and a.csv.gz."""
    name = name.lower()
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    base = name.rpartition("/")[2]
    return f".{base.rpartition('.')[2]}" if "." in base else ""


def read_file(file: Location, source: Source) -> Iterator[RawRow]:
    """The rows of a file, in its order. Raises DataError when it is none of the known formats,
    cannot be read, is empty or lacks a column."""
    reader = READERS.get(suffix(file.name))
    if reader is None:
        raise source.error(
            f"{shown(file)} has an unknown suffix {suffix(file.name) or '(none)'}",
            f"Use one of {', '.join(READERS)}, or a folder with one sub-folder of texts a label.",
        )
    try:
        yield from reader(file, source)
    except (OSError, pa.ArrowException) as error:
        raise source.error(
            f"{shown(file)} cannot be read: {error}",
            "check that it is whole and what its name says",
        ) from None


def decode(raw: bytes, file: Location, source: Source) -> str:
    """The text in `raw`; bytes that do not fit the encoding become lone surrogates, which cleaning
    finds row by row. Raises DataError where the encoding is unknown or plainly another one."""
    try:
        encoding = codecs.lookup(source.encoding).name
        if encoding == "utf-8" and raw.startswith(_UTF16_MARKS):
            raise DataError.of(
                "data.encoding",
                source.encoding,
                f"{shown(file)} starts with the mark of UTF-16",
                "set data.encoding: utf-16",
            )
        # A byte order mark is no part of the first column's name.
        return raw.decode("utf-8-sig" if encoding == "utf-8" else encoding, "surrogateescape")
    except LookupError:
        raise DataError.of(
            "data.encoding",
            source.encoding,
            "no such text encoding",
            "name one that Python knows, for example utf-8, latin-1, cp1252 or utf-16",
        ) from None
    except UnicodeError as error:
        raise DataError.of(
            "data.encoding",
            source.encoding,
            f"{shown(file)} cannot be read with it: {error}",
            "set data.encoding to the encoding the file was written in",
        ) from None


def read_text(raw: bytes, label: str, file: Location, source: Source) -> RawRow:
    """The row of a text file that lies in the sub-folder `label`."""
    if "text" not in source.columns:
        raise source.error(
            f"a folder of texts has no {' and no '.join(source.columns)}",
            "name a file with these columns, or data.columns.text",
        )
    values = {source.columns["text"]: decode(raw, file, source)}
    if "label" in source.columns:
        values[source.columns["label"]] = label
    return RawRow(values, f"{shown(file)}:1")


def table_rows(table: pa.Table, where: str) -> Iterator[RawRow]:
    """The rows of an Arrow table; `where` names it."""
    names = table.column_names
    columns = (column.to_pylist() for column in table.columns)
    for number, values in enumerate(zip(*columns, strict=True), 1):
        yield RawRow(dict(zip(names, values, strict=True)), f"{where}:{number}")


def _text_of(file: Location, source: Source) -> str:
    text = decode(file.read_bytes(), file, source)
    if not text.strip():
        raise source.error(f"{shown(file)} is empty", "name a file with rows")
    return text


def _read_csv(file: Location, source: Source) -> Iterator[RawRow]:
    delimiter = "\t" if suffix(file.name) == ".tsv" else ","
    records = _records(_text_of(file, source), delimiter)
    name = shown(file)
    _, header = next(records)
    if isinstance(header, BadRow):
        raise source.error(f"the first line of {name} is no header: {header.detail}", "mend it")
    header = [column.strip() for column in header]
    source.columns_in(header, name)
    for line, fields in records:
        where = f"{name}:{line}"
        if isinstance(fields, BadRow):
            yield RawRow({}, where, fields)
        elif len(fields) != len(header):
            detail = f"{len(fields)} fields instead of {len(header)}"
            yield RawRow({"fields": fields}, where, BadRow("ragged", detail))
        else:
            yield RawRow(dict(zip(header, fields, strict=True)), where)


def _records(text: str, delimiter: str) -> Iterator[tuple[int, list[str] | BadRow]]:
    """The line on which each record of a CSV text starts, and its fields.

    Quotes that do not close would swallow all rows up to the next quote: such a line is one bad
    record, and reading goes on at the line below it.
    """
    csv.field_size_limit(sys.maxsize)
    # With newline="" lines end where a CSV reader expects it, and not at every Unicode separator.
    lines = list(io.StringIO(text, newline=""))
    start = 0
    while start < len(lines):
        reader = csv.reader(
            (lines[i] for i in range(start, len(lines))), strict=True, delimiter=delimiter
        )
        first, done = start, 0
        try:
            for fields in reader:
                if fields:
                    yield first + done + 1, fields
                done = reader.line_num
            return
        except csv.Error as error:
            yield first + done + 1, BadRow("ragged", f"broken quotes: {error}")
            start = first + done + 1


def _read_json(file: Location, source: Source) -> Iterator[RawRow]:
    """One object a line; a file that is one array of objects is read too."""
    name = shown(file)
    seen: dict[str, None] = {}
    for number, raw, item in _json_items(_text_of(file, source), name, source):
        if isinstance(item, dict):
            seen.update(dict.fromkeys(item))
            yield RawRow(item, f"{name}:{number}")
        else:
            fault = item if isinstance(item, BadRow) else BadRow("not_json", "not an object")
            yield RawRow({"line": raw}, f"{name}:{number}", fault)
    if seen:
        # A key may be missing on some lines, but not on all of them.
        source.columns_in(list(seen), name)


def _json_items(text: str, name: str, source: Source) -> Iterator[tuple[int, Any, Any]]:
    """Number, raw form and value of each item; a BadRow for what is no JSON."""
    if text.lstrip().startswith("["):
        try:
            for number, item in enumerate(json.loads(text), 1):
                yield number, item, item
        except json.JSONDecodeError as error:
            raise source.error(
                f"{name} starts as a JSON array and is none: {error}", "write one object a line"
            ) from None
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, line, json.loads(line)
            except json.JSONDecodeError as error:
                yield number, line, BadRow("not_json", str(error))


def _read_parquet(file: Location, source: Source) -> Iterator[RawRow]:
    import pyarrow.parquet as pq

    with file.fs.open_input_file(file.path) as stream:
        parquet = pq.ParquetFile(stream)
        names = source.columns_in(parquet.schema_arrow.names, shown(file))
        yield from table_rows(parquet.read(columns=names), shown(file))


def _read_arrow(file: Location, source: Source) -> Iterator[RawRow]:
    """Both Arrow IPC formats: the file starts with a magic word, the stream does not."""
    with file.fs.open_input_file(file.path) as stream:
        is_file = stream.read(6) == b"ARROW1"
        stream.seek(0)
        reader = pa.ipc.open_file(stream) if is_file else pa.ipc.open_stream(stream)
        names = source.columns_in(reader.schema.names, shown(file))
        yield from table_rows(reader.read_all().select(names), shown(file))


READERS: dict[str, Reader] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_json,
    ".ndjson": _read_json,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
    ".feather": _read_arrow,
}
