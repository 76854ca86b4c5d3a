"""Rows are read in batches and twice: what is found does not depend on the batches, and memory
does not grow with what rows hold."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ftray.data.cleaning.twins import are_among, find_twins
from ftray.data.dataset import Dataset, read_dataset
from ftray.data.readers import batch, columnar, contents, delimited, file_rows, json_rows
from ftray.errors import DataError
from ftray.spec.load import parse

Read = Callable[..., Dataset]
Jsonl = Callable[..., str]


def messy(count: int, seed: int) -> list[dict[str, Any]]:
    """Rows with faults of every kind, twins and contradictions."""
    draw = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        row: dict[str, Any] = {"text": f"text {number}", "label": draw.choice("abc")}
        kind = draw.random()
        if kind < 0.1 and rows:
            row = {**draw.choice(rows), "user": number}
        elif kind < 0.15 and rows:
            row = {**draw.choice(rows), "label": draw.choice("abc")}
        elif kind < 0.2:
            row = draw.choice([{"text": ""}, {"label": "a"}, {"text": "\ud800", "label": "a"}])
        rows.append(row)
    return rows


def told(dataset: Dataset) -> tuple[Any, ...]:
    """All that a data set says."""
    tables = {name: rows.table(where=True).to_pydict() for name, rows in dataset.splits.items()}
    dropped = [row.to_json() for row in dataset.dropped()]
    return tables, dropped, dataset.report.to_json(), dataset.schema, dataset.digest


def set_batches(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    for module in (batch, columnar, contents, delimited, file_rows, json_rows):
        for name in ("BATCH_ROWS", "FILES_TOGETHER", "_TABLE_ROWS"):
            monkeypatch.setattr(module, name, rows, raising=False)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet"])
def test_the_size_of_batches_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, read: Read, name: str
) -> None:
    rows = [
        {"text": row.get("text"), "label": row.get("label")}
        for row in messy(300, 1)
        if row.get("text") != "\ud800"
    ]
    file, test = tmp_path / name, tmp_path / f"test-{name}"
    for path, some in ((file, rows), (test, messy(40, 2)[:20] + rows[::30])):
        table = pa.table({key: [row.get(key) for row in some if row.get("text") != "\ud800"]
                          for key in ("text", "label")})  # fmt: skip
        if name.endswith("parquet"):
            pq.write_table(table, path)
        elif name.endswith("csv"):
            table.to_pandas().to_csv(path, index=False)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    found = []
    for size in (1, 7, 4096):
        set_batches(monkeypatch, size)
        found.append(told(read(str(file), test=str(test), on_bad_row="skip")))
    assert found[0] == found[1] == found[2]
    assert {"duplicate", "conflicting_duplicate", "leaked"} <= {row["kind"] for row in found[0][1]}


def test_blocks_hold_every_row_once_and_in_order(read: Read, jsonl: Jsonl) -> None:
    test = jsonl([{"text": f"held out {n}", "label": "ab"[n % 2]} for n in range(9)], "test.jsonl")
    dataset = read(jsonl(messy(200, 3)), test=test, on_bad_row="skip")
    for size in (4, 1000):
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in dataset.splits}
        for block in dataset.blocks(size):
            assert block.first == block.number * size == len(found[block.split])
            found[block.split] += block.rows.to_pylist()
        for name, rows in dataset.splits.items():
            assert found[name] == rows.table().to_pylist()


@pytest.mark.parametrize("change", ["a value", "a row less", "a row more in between"])
def test_rows_that_change_between_the_readings_are_refused(
    read: Read, jsonl: Jsonl, rows: list[dict[str, Any]], change: str
) -> None:
    dataset = read(jsonl(rows))
    others = {
        "a value": [*rows[:5], {**rows[5], "text": "other"}, *rows[6:]],
        "a row less": rows[:-1],
        "a row more in between": [*rows[:9], {"text": "new", "label": "a"}, *rows[9:]],
    }
    jsonl(others[change])
    with pytest.raises(DataError, match="its rows changed while it was read"):
        list(dataset.blocks(4096))


def test_twins_are_those_that_comparing_all_finds() -> None:
    draw = np.random.default_rng(0)
    # Few values, so that keys agree in one half, in the other, and in both.
    keys = draw.integers(0, 9, (400, 2)).astype(np.uint64)
    labels = draw.integers(0, 2, 400)
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, key in enumerate(map(tuple, keys.tolist())):
        groups.setdefault(key, []).append(row)
    same = {key: len({labels[row] for row in rows}) == 1 for key, rows in groups.items()}
    firsts = {row: of[0] for key, of in groups.items() if same[key] for row in of[1:]}
    found = find_twins(keys, labels)
    assert dict(zip(found.duplicates.tolist(), found.first.tolist(), strict=True)) == firsts
    assert found.duplicates.tolist() == sorted(firsts)
    against = sorted(row for key, of in groups.items() if not same[key] for row in of)
    assert found.conflicts.tolist() == against
    others = keys[:60]
    expected = [key in set(map(tuple, others.tolist())) for key in map(tuple, keys.tolist())]
    assert are_among(keys, others).tolist() == expected
    assert not are_among(keys, keys[:0]).any()


def test_images_are_read_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for label in "ab":
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(20):
            pixels = draw.integers(0, 255, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{number:02}.png")
    (tmp_path / "photos" / "b" / "03.png").write_bytes(b"no image")
    tree = {"name": "t", "model": {"name_or_path": "m"}, "task": "image-classification"}
    data = {"train": str(tmp_path / "photos"), "on_bad_row": "skip"}
    set_batches(monkeypatch, 8)
    at_once = []
    take = batch.RawBatch.column
    monkeypatch.setattr(
        batch.RawBatch, "column", lambda of, name: (at_once.append(len(of)), take(of, name))[1]
    )
    dataset = read_dataset(parse({**tree, "data": data}))
    found = [block.rows for block in dataset.blocks(16)]
    assert max(at_once) == 8
    assert sum(rows.num_rows for rows in found) == 39
    (bad,) = dataset.dropped()
    assert bad.kind == "not_an_image" and bad.where.endswith("b/03.png")
    assert bad.values["image"] == bad.where, "the file's name and not its content"


MEMORY = """
import resource, sys
from ftray.data.dataset import read_dataset
from ftray.spec.load import parse

tree = {"name": "t", "model": {"name_or_path": "m"}, "data": {"train": sys.argv[1]}}
spec = parse(tree)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
dataset = read_dataset(spec)
rows = sum(block.rows.num_rows for block in dataset.blocks(512))
print(rows, peak() - before)
"""


def test_memory_does_not_grow_with_what_rows_hold(tmp_path: Path) -> None:
    count, size = 20_000, 5_000
    with (tmp_path / "rows.jsonl").open("w") as file:
        for number in range(count):
            text = f"text {number} " + "word " * (size // 5)
            file.write(json.dumps({"text": text, "label": "ab"[number % 2]}) + "\n")
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "rows.jsonl")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    rows, grown = map(int, done.stdout.split())
    assert rows == count
    assert grown < 0.9 * count * size, "less than the texts, of which it holds a batch and a block"
