"""The file report_rows.json of a run: the rows of the data that its report shows."""

from __future__ import annotations

import io
import json
from base64 import b64encode
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel

from ftray.data.dataset import Dataset
from ftray.data.encoding.encoded import QUARANTINE, EncodedDataset
from ftray.reports.test_rows import TestRows, read_test_rows
from ftray.store.files.location import Location

FILE = "report_rows.json"
SHOWN = 24
"""Mistakes that the report shows with their inputs."""
_KEPT = 1_000
"""Wrong rows whose inputs are kept, so that two runs can be compared."""
_SURPRISES = 8
_OF_A_KIND = 3
_READ = 2**22
"""Bytes of the list of rows left out that are looked at."""
_CHARACTERS = 400
_THUMBNAIL = (112, 112)


class Samples(BaseModel):
    """cleaning: the report on the data, as JSON; quarantine: some rows left out; rows: number
    of a test row -> column -> text, or URL of a small image; images: the columns with images."""

    cleaning: dict[str, Any] = {}
    lengths: dict[str, Any] = {}
    quarantine: list[dict[str, Any]] = []
    rows: dict[int, dict[str, str]] = {}
    images: list[str] = []


def read_samples(folder: Location) -> Samples:
    """Read the file in a run's folder; nothing where there is none."""
    file = folder / FILE
    return Samples.model_validate_json(file.read_bytes()) if file.is_file() else Samples()


class Data(NamedTuple):
    """The data of a run, clean and encoded. images: the columns whose values are images."""

    dataset: Dataset
    encoded: EncodedDataset
    images: frozenset[str]


def keep_samples(folder: Location, data: Data) -> None:
    """Write the file into a run's folder. Reads the source of the test split once more."""
    dataset, encoded, images = data
    rows = read_test_rows(folder)
    found: dict[int, dict[str, str]] = {}
    if rows is not None:
        wanted = np.unique(np.r_[wrong_rows(rows)[:_KEPT], surprises(rows)])
        numbers = rows.rows[np.sort(wanted)].tolist()
        shown = set(rows.rows[np.r_[wrong_rows(rows)[:SHOWN], surprises(rows)]].tolist())
        tables = dataset.splits["test"].tables(numbers) if numbers else ()
        values = (row for table in tables for row in table.to_pylist())
        for number, row in zip(numbers, values, strict=True):
            thumbs = images if number in shown else frozenset()
            found[number] = {name: _shown(row[name], name in thumbs) for name in row}
    samples = Samples(
        cleaning=dict(encoded.report),
        lengths={split: vars(of) for split, of in encoded.lengths.items()},
        quarantine=_quarantine(encoded.location),
        rows=found,
        images=sorted(images),
    )
    (folder / FILE).write_bytes(samples.model_dump_json().encode("utf-8", "replace"))


def wrong_rows(rows: TestRows) -> np.ndarray:
    """Return the indices of the rows with the worst answers, the worst first. Where the task judges
    no answers, those with the highest loss."""
    if not rows.are_judged:
        return np.argsort(-rows.losses, kind="stable")[:SHOWN]
    order = np.lexsort((-rows.losses, -rows.errors))
    found: np.ndarray = order[rows.errors[order] > 0]
    return found


def surprises(rows: TestRows) -> np.ndarray:
    """Return the indices of the right answers with the highest loss, the highest first."""
    if rows.shares is None:
        return np.empty(0, np.int64)
    order = np.argsort(-rows.losses, kind="stable")
    return order[rows.errors[order] == 0][:_SURPRISES]


def _quarantine(folder: Location) -> list[dict[str, Any]]:
    file = folder / QUARANTINE
    if not file.is_file():
        return []
    lines = bytes(file.buffer()[:_READ]).splitlines()
    seen: Counter[str] = Counter()
    kept = []
    for row in (json.loads(line) for line in lines if line.endswith(b"}")):
        seen[row["kind"]] += 1
        if seen[row["kind"]] <= _OF_A_KIND:
            values = {name: _text(value) for name, value in row["values"].items()}
            kept.append({**row, "values": values})
    return kept


def _shown(value: Any, is_image: bool) -> str:
    if isinstance(value, bytes):
        return _thumbnail(value) if is_image else f"{len(value):,} bytes"
    return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, str):
        text = value
    elif isinstance(value, (Mapping, Sequence)):
        text = json.dumps(value, ensure_ascii=False, default=str)
    else:
        text = "" if value is None else str(value)
    return text if len(text) <= _CHARACTERS else f"{text[:_CHARACTERS]}…"


def _thumbnail(content: bytes) -> str:
    """Return the URL of a small picture that holds its own data."""
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        image.draft("RGB", _THUMBNAIL)
        small = image.convert("RGB")
    small.thumbnail(_THUMBNAIL)
    written = io.BytesIO()
    small.save(written, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{b64encode(written.getvalue()).decode()}"
