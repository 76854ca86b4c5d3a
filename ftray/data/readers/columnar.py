"""Reads Parquet and Arrow files, whose rows have numbers instead of lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ftray.data.readers.batch import BATCH_BYTES, FILES_TOGETHER, Columns, RawBatch
from ftray.data.readers.rows import Source, shown
from ftray.data.readers.stream import LEAST_COLUMNS, Guard, codec
from ftray.store.files.location import Location

_TABLE_ROWS = 1024
"""Fewer than in other formats: a column may repeat one text, and its size does not tell."""


def table_batches(
    batches: Iterable[pa.RecordBatch], where: str, source: Source
) -> Iterator[RawBatch]:
    """Yield Arrow batches as raw rows; `where` names the file or data set of the batches. Decodes
    columns of bytes that the task needs."""
    count, needed = 0, set(source.named.values()).difference(source.file_columns)
    for whole in batches:
        for batch in _slices(whole, most_rows(source, whole.nbytes, whole.num_rows)):
            columns = {
                name: _values(batch.column(place), source if name in needed else None)
                for place, name in enumerate(batch.schema.names)
            }
            numbers = range(count + 1, count + batch.num_rows + 1)
            count += batch.num_rows
            yield RawBatch(Columns(columns, batch.num_rows), where, numbers)


def most_rows(source: Source, size: int = 0, rows: int = 0) -> int:
    """Return the most rows of a batch of a table with `rows` rows and `size` bytes."""
    most = FILES_TOGETHER if source.file_columns else _TABLE_ROWS
    return max(1, min(most, BATCH_BYTES * rows // size)) if size else most


def read_parquet(file: Location, source: Source) -> Iterator[RawBatch]:
    import pyarrow.parquet as pq

    with file.fs.open_input_file(file.path) as stream:
        parquet = pq.ParquetFile(stream)
        names = source.columns_in(parquet.schema_arrow.names, shown(file))
        about = parquet.metadata
        size = sum(about.row_group(n).total_byte_size for n in range(about.num_row_groups))
        most = most_rows(source, size, about.num_rows)
        batches = parquet.iter_batches(most, columns=names)
        yield from table_batches(_counted(batches, file, source), shown(file), source)


def read_arrow(file: Location, source: Source) -> Iterator[RawBatch]:
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
        most = most_rows(source)
        batches = (part for batch in found for part in _slices(batch.select(names), most))
        yield from table_batches(_counted(batches, file, source), shown(file), source)


def _slices(batch: pa.RecordBatch, size: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, batch.num_rows, size):
        yield batch.slice(start, size)


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
