"""Writes rows with their predictions to one file: JSON lines, CSV or Parquet, whole or not at
all."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ftray.cluster.folder import existing
from ftray.errors import DataError
from ftray.store.files.location import Location, locate

PROBABILITIES = "probabilities"
"""The column that prediction adds on demand: label -> probability."""
Row = dict[str, Any]


def open_output(out: str, overwrite: bool) -> Location:
    """Return the location of the output file. Raises DataError for an unknown suffix, for a file
    that exists and must not be replaced, and for a folder that cannot be written."""
    target = locate(out)
    if Path(target.path).suffix.lower() not in _FORMATS:
        known = ", ".join(_FORMATS)
        raise DataError.of("--out", out, "its suffix says no known format", f"use one of {known}")
    if target.is_dir():
        raise DataError.of("--out", out, "is a folder", "name a file in it")
    if target.exists() and not overwrite:
        raise DataError.of(
            "--out", out, "is there already", "name another file, or replace it with --overwrite"
        )
    if target.is_local and not os.access(existing(Path(target.path).parent), os.W_OK):
        raise DataError.of("--out", out, "its folder cannot be written", "name another folder")
    return target


def write(target: Location, rows: Sequence[Row], added: Mapping[str, Sequence[Any]]) -> None:
    """Write `rows` in their order with the columns `added`. Raises DataError when the format cannot
    hold the rows or the file cannot be written."""
    whole = [{name: _plain(value) for name, value in row.items()} for row in rows]
    for name, values in added.items():
        for row, value in zip(whole, values, strict=True):
            row[name] = value
    # A row may lack a column that other rows have. The added columns stay at the end.
    names = dict.fromkeys(name for row in rows for name in row)
    content = _FORMATS[Path(target.path).suffix.lower()](whole, [*names, *added])
    try:
        target.write_bytes(content)
    except OSError as error:
        fix = "free space, or name another file"
        raise DataError.of("--out", target.url, f"cannot be written: {error}", fix) from None


def write_left_out(target: Location, rows: Sequence[Row]) -> Location:
    """Write the rows without an answer, with the reason, as JSON lines beside the output. Return
    the location of this file."""
    file = target.parent / f"{target.name}.quarantine.jsonl"
    file.write_bytes(_jsonl([{name: _plain(v) for name, v in row.items()} for row in rows], []))
    return file


def _plain(value: Any) -> Any:
    """Return `value` without anything that UTF-8 and JSON cannot hold: a lone surrogate (half a
    character) is escaped; infinity and NaN become None."""
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _jsonl(rows: list[Row], names: list[str]) -> bytes:
    return "".join(_json(row) + "\n" for row in rows).encode()


def _csv(rows: list[Row], names: list[str]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = row.items()
        writer.writerow({k: _json(v) if isinstance(v, (dict, list)) else v for k, v in cells})
    return text.getvalue().encode()


def _parquet(rows: list[Row], names: list[str]) -> bytes:
    import pyarrow.parquet as pq

    arrays = {}
    for name in names:
        try:
            arrays[name] = pa.array([row.get(name) for row in rows])
        except pa.ArrowException:
            fix = "write .jsonl, which holds any value"
            problem = f"column {name} has values of several types"
            raise DataError.of("--out", ".parquet", problem, fix) from None
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(arrays), sink)
    return sink.getvalue().to_pybytes()


_FORMATS: dict[str, Callable[[list[Row], list[str]], bytes]] = {
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".parquet": _parquet,
}
