"""Reads plain text files, one row for each file."""

from __future__ import annotations

from ftray.data.readers import stream
from ftray.data.readers.rows import RawRow, Source, shown
from ftray.store.files.location import Location


def read_text(raw: bytes, label: str, file: Location, source: Source) -> RawRow:
    """Return the row of a text file from the sub-folder `label`."""
    if "text" not in source.columns:
        raise source.error(
            f"a folder of texts has no {' and no '.join(source.columns)}",
            "name a file with these columns, or data.columns.text",
        )
    values = {source.columns["text"]: stream.decode(raw, file, source)}
    if "label" in source.columns:
        values[source.columns["label"]] = label
    return RawRow(values, f"{shown(file)}:1")
