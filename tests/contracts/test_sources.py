"""The same rows give the same data set from every format and every kind of storage."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from ftray.data.dataset import Dataset, read_dataset
from ftray.errors import DataError
from ftray.spec.load import parse
from ftray.store.files.location import Location, locate

ROWS = [
    {"text": f'Row {i}: "quoted", a\ttab, ünïcode \U0001f600\nand a second line', "label": label}
    for i, label in enumerate(["neg", "pos", "so so"] * 12)
]


def _csv(rows: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, ["text", "label"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def _jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=7)
    return sink.getvalue()


def _arrow(new: Callable[..., Any]) -> Callable[[list[dict[str, Any]]], bytes]:
    def write(rows: list[dict[str, Any]]) -> bytes:
        table, sink = pa.Table.from_pylist(rows), io.BytesIO()
        with new(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=5)
        return sink.getvalue()

    return write


FORMATS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "rows.csv": _csv,
    "rows.tsv": lambda rows: _csv(rows, "\t"),
    "rows.jsonl": _jsonl,
    "rows.ndjson": _jsonl,
    "rows.json": lambda rows: json.dumps(rows).encode(),
    "rows.parquet": _parquet,
    "file.arrow": _arrow(pa.ipc.new_file),
    "stream.arrow": _arrow(pa.ipc.new_stream),
    "rows.feather": _arrow(pa.ipc.new_file),
}


@pytest.fixture(scope="module")
def s3() -> Iterator[Callable[[str], str]]:
    """A function from a key to its URL, on a real S3 protocol server."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    _, port = server.get_host_and_port()
    options = f"scheme=http&endpoint_override=127.0.0.1:{port}&allow_bucket_creation=true"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_REGION", "us-east-1")
        pafs.FileSystem.from_uri(f"s3://data?{options}")[0].create_dir("data")
        yield lambda key: f"s3://data/{key}?{options}"
        server.stop()


@pytest.fixture(params=["local", "file-url", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """A function from a relative path to the path or URL that a user would write in the spec."""
    if request.param == "s3":
        url = request.getfixturevalue("s3")
        return lambda path: url(f"{tmp_path.name}/{path}")
    prefix = "file://" if request.param == "file-url" else ""
    return lambda path: f"{prefix}{tmp_path}/{path}"


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = tmp_path_factory.mktemp("expected") / "rows.jsonl"
    path.write_bytes(_jsonl(ROWS))
    return _read(str(path))


def _read(train: str, **data: Any) -> Dataset:
    tree = {"model": {"name_or_path": "unused"}, "data": {"train": train, **data}}
    return read_dataset(parse({"name": "contract", **tree}))


def _put(url: str, content: bytes) -> Location:
    file = locate(url)
    file.write_bytes(content)
    return file


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_in_every_place(place, expected, name):
    url = place(name)
    _put(url, FORMATS[name](ROWS))
    dataset = _read(url)
    assert dataset.digest == expected.digest
    for split, rows in expected.splits.items():
        assert dataset.splits[split].table() == rows.table()


@pytest.mark.parametrize("name", ["part.csv", "part.jsonl", "part.parquet"])
def test_parts_in_a_folder_or_by_a_pattern(place, expected, name):
    stem, suffix = name.split(".")
    for number, start in enumerate(range(0, len(ROWS), 10)):
        part = FORMATS[f"rows.{suffix}"](ROWS[start : start + 10])
        _put(place(f"parts/{stem}-{number}.{suffix}"), part)
    _put(place("parts/_SUCCESS"), b"")
    assert _read(place("parts")).digest == expected.digest
    assert _read(place(f"parts/{stem}-*.{suffix}")).digest == expected.digest


@pytest.mark.parametrize(
    "name, others",
    [
        ("part[1].jsonl", ["part1.jsonl"]),
        ("set [v2]/rows.jsonl", ["set v/rows.jsonl"]),
        ("what*/rows*.jsonl", ["whatever/rows-1.jsonl"]),
        ("100% [of them]/rows.jsonl", []),
    ],
)
def test_what_exists_is_no_pattern(place, expected, name, others):
    folder = locate(place("odd"))
    (folder / name).write_bytes(_jsonl(ROWS))
    for other in others:
        (folder / other).write_bytes(b'{"text": "another file", "label": "x"}\n')
    # A URL writes the percent sign as %25.
    written = name if folder.url == folder.path else name.replace("%", "%25")
    assert _read(place(f"odd/{written}")).digest == expected.digest
    # Below an existing folder with pattern characters in its name, patterns still work.
    above, _, _ = written.rpartition("/")
    if above:
        assert _read(place(f"odd/{above}/*.jsonl")).digest == expected.digest


def test_patterns_in_several_parts_of_a_path(place, expected):
    for number, start in enumerate(range(0, len(ROWS), 10)):
        _put(place(f"deep/{number}/a/part.jsonl"), _jsonl(ROWS[start : start + 10]))
    _put(place("deep/0/a/.part.jsonl"), b"what another program left")
    _put(place("deep/.old/a/part.jsonl"), b"what another program left")
    for pattern in ("*/a/*.jsonl", "[0-9]/a/part.jsonl", "**/*.jsonl", "**/part.jsonl", "**"):
        assert _read(place(f"deep/{pattern}")).digest == expected.digest, pattern


def test_a_folder_per_label(place):
    rows = sorted(ROWS, key=lambda row: row["label"])
    for number, row in enumerate(rows):
        # A label may have a space in it, but a URL may not.
        file = locate(place("labels")) / f"{row['label']}/{number:03}.txt"
        file.write_bytes(row["text"].encode())
    _put(place("rows.jsonl"), _jsonl(rows))
    assert _read(place("labels")).digest == _read(place("rows.jsonl")).digest


def test_own_held_out_sources(place, expected):
    for split, rows in expected.splits.items():
        _put(place(f"{split}.parquet"), _parquet(rows.table().to_pylist()))
    urls = {split: place(f"{split}.parquet") for split in expected.splits}
    assert _read(**urls).digest == expected.digest


def test_what_is_missing_is_named(place):
    with pytest.raises(DataError) as caught:
        _read(place("nothing.csv"))
    (problem,) = caught.value.problems
    assert problem.key == "data.train" and "no such file" in problem.problem
    with pytest.raises(DataError, match="matches no file"):
        _read(place("nothing-*.csv"))


def test_a_fault_is_placed_by_its_url_and_line(place):
    _put(place("rows.jsonl"), _jsonl([*ROWS, {"text": "", "label": "pos"}]))
    dataset = _read(place("rows.jsonl"), on_bad_row="skip")
    (row,) = dataset.dropped()
    assert row.where.endswith(f":{len(ROWS) + 1}") and "rows.jsonl" in row.where
