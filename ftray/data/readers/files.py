"""Reads the rows of one file with the reader for the suffix of its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow as pa

from ftray.data.readers.batch import RawBatch
from ftray.data.readers.columnar import read_arrow, read_parquet
from ftray.data.readers.conll import read_conll, read_conllu
from ftray.data.readers.delimited import read_delimited
from ftray.data.readers.json_rows import read_json
from ftray.data.readers.rows import Source, shown
from ftray.data.readers.stream import CODECS
from ftray.store.files.location import Location

Reader = Callable[[Location, Source], Iterator[RawBatch]]

READERS: dict[str, Reader] = {
    ".csv": read_delimited,
    ".tsv": read_delimited,
    ".jsonl": read_json,
    ".ndjson": read_json,
    ".json": read_json,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    ".feather": read_arrow,
    **dict.fromkeys((".conll", ".iob", ".iob2", ".bio", ".bioes"), read_conll),
    ".conllu": read_conllu,
}


def suffix(name: str) -> str:
    """Return the lower-case suffix that tells the format: '.csv' for both a.CSV and a.csv.gz."""
    name = name.lower()
    for ending in CODECS:
        name = name.removesuffix(ending)
    base = name.rpartition("/")[2]
    return f".{base.rpartition('.')[2]}" if "." in base else ""


def read_file(file: Location, source: Source) -> Iterator[RawBatch]:
    """Yield the rows of a file, in its order. Raises DataError when the file is in no known format,
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
