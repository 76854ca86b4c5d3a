"""Cleans the rows of a batch: separates rows that the task can use from rows that it cannot.

A row that cannot be used has a kind: a fault that the task finds (empty_text, missing_label, ...),
or one of reading (ragged, not_json, bad_encoding).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import xxhash

from ftray.data.cleaning.faults import BAD_ENCODING
from ftray.data.readers.batch import RawBatch
from ftray.data.readers.rows import Source
from ftray.tasks import Task
from ftray.tasks.base import BadRow, Row
from ftray.tasks.info import Modality

T = TypeVar("T")
Columns = dict[str, list[Any]]
"""Column -> value of each row."""

# Lone surrogates: bytes that did not fit the encoding, or half a character that JSON escapes.
_SURROGATE = re.compile("[\ud800-\udfff]")
_STORED: Mapping[Modality, pa.DataType] = {
    # large_string has 64-bit offsets: the texts of a split may exceed 2 GB.
    **dict.fromkeys(
        ("text", "texts", "chat", "category", "spans", "record", "items"), pa.large_string()
    ),
    "number": pa.list_(pa.float64()),
    "image": pa.large_binary(),
}


class Cleaned(NamedTuple):
    """The rows of a batch after cleaning. kept: indices of the rows that can be used; columns:
    clean values of these; faults: index of any other row -> the reason; beyond_ascii: rows that
    decode and have other characters than ASCII."""

    kept: Sequence[int]
    columns: Columns
    faults: dict[int, BadRow]
    beyond_ascii: int


def clean(batch: RawBatch, source: Source, task: Task) -> Cleaned:
    """Make clean rows of a batch."""
    raw = decoded(batch, source)
    if not task.cleaners:
        kept, rows, faults = clean_each(raw, task.parse)
        names = list(rows[0]) if rows else []
        found = {name: [row[name] for row in rows] for name in names}
        return Cleaned(kept, found, faults, raw.beyond_ascii)
    faults, values, found = raw.faults, raw.values, {}
    for name, cleaner in task.cleaners.items():
        if name in values:
            found[name] = _column(values[name], cleaner, faults)
    if not faults:
        return Cleaned(range(len(batch)), found, faults, raw.beyond_ascii)
    kept = [index for index in range(len(batch)) if index not in faults]
    found = {name: [of[index] for index in kept] for name, of in found.items()}
    return Cleaned(kept, found, faults, raw.beyond_ascii)


def _column(
    values: Sequence[Any], cleaner: Callable[[Any], Any], faults: dict[int, BadRow]
) -> list[Any]:
    found = []
    for index, value in enumerate(values):
        try:
            found.append(cleaner(value))
        except BadRow as fault:
            faults.setdefault(index, fault)
            found.append(None)
    return found


def clean_each(
    raw: Decoded, make: Callable[[Mapping[str, Any]], T]
) -> tuple[list[int], list[T], dict[int, BadRow]]:
    """Return the indices of the rows of which `make` makes something, what it makes of each, and
    the faults of the others. `make` gets logical column -> raw value, and may raise BadRow."""
    kept, made, faults = [], [], raw.faults
    for index, row in enumerate(zip(*raw.values.values(), strict=True)):
        if index in faults:
            continue
        try:
            made.append(make(dict(zip(raw.values, row, strict=True))))
            kept.append(index)
        except BadRow as fault:
            faults[index] = fault
    return kept, made, faults


class Decoded(NamedTuple):
    """Raw rows before cleaning: logical column -> raw values. faults: of rows that could not be
    read, or do not decode."""

    values: dict[str, Sequence[Any]]
    faults: dict[int, BadRow]
    beyond_ascii: int


def decoded(batch: RawBatch, source: Source) -> Decoded:
    """Return the logical columns of a batch."""
    values: dict[str, Sequence[Any]] = {
        logical: batch.column(name) for logical, name in source.named.items()
    }
    for logical, names in (*source.flags.items(), *source.others(batch.names)):
        columns = [batch.column(name) for name in names]
        each = zip(*columns, strict=True) if columns else repeat((), len(batch))
        values[logical] = [dict(zip(names, of, strict=True)) for of in each]
    faults, beyond_ascii = dict(batch.faults), set()
    for column in values.values():
        for index, value in enumerate(column):
            for text in value.values() if isinstance(value, Mapping) else (value,):
                if isinstance(text, str) and not text.isascii():
                    if found := _SURROGATE.search(text):
                        faults.setdefault(index, BadRow(BAD_ENCODING, _undecoded(found)))
                    beyond_ascii.add(index)
    return Decoded(values, faults, len(beyond_ascii.difference(faults)))


def _undecoded(found: re.Match[str]) -> str:
    code = ord(found.group())
    # Decoding with "surrogateescape" turns a byte 0xNN that does not fit into U+DCNN.
    what = f"byte 0x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else ascii(found.group())
    return f"{what} at character {found.start() + 1}"


def rows_of(columns: Columns) -> list[Row]:
    """Return the rows of these columns."""
    values = zip(*columns.values(), strict=True)
    return [dict(zip(columns, of, strict=True)) for of in values]


def table(rows: Mapping[str, Sequence[Any]], columns: Mapping[str, Modality]) -> pa.Table:
    """Return clean rows as a table, with those of `columns` that they have."""
    return pa.table(
        {name: pa.array(rows[name], _STORED[of]) for name, of in columns.items() if name in rows}
    )


def row_digests(columns: Mapping[str, Sequence[Any]]) -> list[int]:
    """Return a 64-bit digest of the values of each row (XXH3). The digest of a value is seeded with
    that of the values before it, so that bytes which move from one cell to another change it."""
    found: list[int] = []
    for name in sorted(columns):
        column = columns[name]
        seeds = found or [0] * len(column)
        each = zip(map(_as_bytes, column), seeds, strict=True)
        found = [xxhash.xxh3_64_intdigest(value, seed) for value, seed in each]
    return found


def key_digests(keys: Iterable[str]) -> np.ndarray:
    """Return a 128-bit digest of each key (XXH3), (rows, 2) uint64."""
    found = b"".join([xxhash.xxh3_128_digest(key.encode("utf-8", "surrogatepass")) for key in keys])
    return np.frombuffer(found, np.uint64).reshape(-1, 2)


def _as_bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    return value if isinstance(value, bytes) else repr(value).encode()
