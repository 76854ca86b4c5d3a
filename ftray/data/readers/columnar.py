"""Reads Parquet and Arrow files, whose rows have numbers instead of lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ftray.data.readers.rows import RawRow, Source, shown
from ftray.data.readers.stream import LEAST_COLUMNS, Guard, codec
from ftray.store.files.location import Location

_BATCH_ROWS = 1024


def table_rows(batches: Iterable[pa.RecordBatch], where: str, source: Source) -> Iterator[RawRow]:
    """Yield the rows of Arrow batches; `where` names the file or data set of the batches. Decodes
    columns of bytes that the task needs."""
    number, needed = 0, set(source.columns.values()).difference(source.file_columns)
    for batch in batches:
        names = batch.schema.names
        columns = [
            _values(batch.column(place), source if name in needed else None)
            for place, name in enumerate(names)
        ]
        for values in zip(*columns, strict=True):
            number += 1
            yield RawRow(dict(zip(names, values, strict=True)), f"{where}:{number}")


def read_parquet(file: Location, source: Source) -> Iterator[RawRow]:
    import pyarrow.parquet as pq

    with file.fs.open_input_file(file.path) as stream:
        parquet = pq.ParquetFile(stream)
        names = source.columns_in(parquet.schema_arrow.names, shown(file))
        batches = parquet.iter_batches(_BATCH_ROWS, columns=names)
        yield from table_rows(_counted(batches, file, source), shown(file), source)


def read_arrow(file: Location, source: Source) -> Iterator[RawRow]:
    """Yield the rows of a file in either Arrow IPC format: the file format starts with a magic
    word, the stream format does not."""
    with file.fs.open_input_file(file.path) as stream:
        is_file = stream.read(6) == b"ARROW1"
        stream.seek(0)
        reader = pa.ipc.open_file(stream) if is_file else pa.ipc.open_stream(stream)
        names = source.columns_in(reader.schema.names, shown(file))
        if is_file:
            found = (reader.get_batch(index) for index in range(reader.num_record_batches))
        else:
            found = iter(reader)
        batches = (part for batch in found for part in _slices(batch.select(names)))
        yield from table_rows(_counted(batches, file, source), shown(file), source)


def _slices(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    for start in range(0, batch.num_rows, _BATCH_ROWS):
        yield batch.slice(start, _BATCH_ROWS)


def _counted(
    batches: Iterable[pa.RecordBatch], file: Location, source: Source
) -> Iterator[pa.RecordBatch]:
    """Yield the batches, and count their bytes with a guard, which raises DataError where they are
    more than a file of this size may hold."""
    size: int = file.fs.get_file_info(file.path).size
    guard = Guard(file, source, LEAST_COLUMNS, lambda: size)
    for batch in batches:
        guard.count(sum(map(_bytes, batch.columns)))
        yield batch


def _bytes(column: pa.Array) -> int:
    """Return the bytes of the values of a column, with repeated dictionary values counted each
    time."""
    if not pa.types.is_dictionary(column.type) or not _is_text(column.type.value_type):
        return column.nbytes
    lengths = pc.binary_length(column.dictionary)
    return pc.sum(pc.take(lengths, column.indices)).as_py() or 0


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or _is_bytes(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or pa.types.is_binary_view(kind)
    )


def _values(column: pa.Array, source: Source | None) -> list[Any]:
    """Return the values of a column; decode bytes with the encoding of `source` where it is
    given."""
    values: list[Any] = column.to_pylist()
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if source is None or not _is_bytes(kind):
        return values
    encoding = codec(source)
    return [
        value if value is None else value.decode(encoding, "surrogateescape") for value in values
    ]
