"""Files that unpack to far more than they are, folders that hold themselves, text that is none."""

from __future__ import annotations

import gzip
import random
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ftray.data.sources import rows_of, source_of
from ftray.errors import DataError
from ftray.spec.schema import DataSpec


def refusal(path, **data):
    with pytest.raises(DataError) as caught:
        list(rows_of(source_of(str(path), "train", DataSpec(train="x", **data))))
    (problem,) = caught.value.problems
    return problem


def bomb(path, line, gigabytes):
    """A gz of `line` again and again, written in little time: one packed member, repeated."""
    member = gzip.compress(line * (2**24 // len(line)), 9)
    with path.open("wb") as file:
        for _ in range(gigabytes * 64):
            file.write(member)


@pytest.mark.parametrize(
    "name, line",
    [
        ("a.csv.gz", b"text,label\n" + b"x" * 2000 + b",a\n"),
        ("a.jsonl.gz", b'{"text": "' + b"x" * 2000 + b'", "label": "a"}\n'),
        ("a.json.gz", b"[" * 4096),
        ("texts/label/a.txt.gz", b"x" * 4096),
    ],
)
def test_a_small_file_of_gigabytes_is_refused_before_it_is_in_memory(tmp_path, name, line):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    bomb(path, line, 3)
    assert path.stat().st_size < 12 * 2**20
    script = f"""
import resource, sys
from ftray.data.sources import rows_of, source_of
from ftray.spec.schema import DataSpec
from ftray.errors import DataError
url = {str(path if "/" not in name else tmp_path / "texts")!r}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    for row in rows_of(source_of(url, "train", DataSpec(train="x"))):
        pass
except DataError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    message, megabytes = done.stdout.strip().splitlines()
    assert "times as many" in message
    assert int(megabytes) < 300


def test_text_that_packs_well_is_no_bomb(tmp_path):
    words = [b"like ", b"others ", b"a ", b"text ", b"is "]
    draw = random.Random(0)
    rows = b"".join(
        b"%s%d,label %d\n" % (b"".join(draw.choices(words, k=20)) * 20, i, i % 2)
        for i in range(6000)
    )
    content = gzip.compress(b"text,label\n" + rows)
    assert len(rows) > 9 * 2**20 and len(content) < len(rows) / 40
    (tmp_path / "a.csv.gz").write_bytes(content)
    found = rows_of(source_of(str(tmp_path / "a.csv.gz"), "train", DataSpec(train="x")))
    assert sum(row.fault is None for row in found) == 6000


def test_a_parquet_of_one_text_again_and_again_is_refused(tmp_path):
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int32()), ["x" * 20_000])
    label = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int32()), ["a"])
    pq.write_table(pa.table({"text": text, "label": label}), tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 200_000
    assert "times as many" in refusal(tmp_path / "a.parquet").problem


def test_a_folder_that_holds_itself_is_refused(tmp_path):
    for number in range(4):
        file = tmp_path / "texts" / "ab"[number % 2] / f"{number}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"text {number}")
    (tmp_path / "texts" / "a" / "other").symlink_to(tmp_path / "texts" / "b")
    source = source_of(str(tmp_path / "texts"), "train", DataSpec(train="x"))
    assert len(list(rows_of(source))) == 6, "a link to a folder beside it leads on"
    (tmp_path / "texts" / "a" / "loop").symlink_to(tmp_path / "texts")
    problem = refusal(tmp_path / "texts").problem
    assert problem.endswith("texts/a/loop is a link to a folder that it lies in")


@pytest.mark.parametrize(
    "encoding", ["utf-16-le", "utf-16-be", "utf-16", "utf-32-le", "utf-32-be", "utf-32"]
)
@pytest.mark.parametrize("row", ["one,a", "\u4e00\u4e8c\u4e09,\u4e00"])
@pytest.mark.parametrize("own", ["utf-8", "latin-1"])
def test_two_or_four_bytes_a_character_are_told_with_or_without_a_mark(
    tmp_path, encoding, row, own
):
    path = tmp_path / "a.csv"
    path.write_bytes(f"text,label\n{row}\n".encode(encoding))
    problem = refusal(path, encoding=own)
    assert problem.key == "data.encoding" and problem.fix == f"Set data.encoding: {encoding}."
    assert "\0" not in str(problem)
    source = source_of(str(path), "train", DataSpec(train="x", encoding=encoding))
    (found,) = rows_of(source)
    assert found.values == dict(zip(("text", "label"), row.split(","), strict=True))


@pytest.mark.parametrize(
    "content, what",
    [(b"PK\x03\x04", "ZIP archive"), (b"PAR1", "Parquet"), (gzip.compress(b"x"), "gzip")],
)
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_file_of_another_format_says_which(tmp_path, name, content, what):
    (tmp_path / name).write_bytes(content + b"\0" * 100)
    assert what in refusal(tmp_path / name).problem


def test_a_packed_file_that_is_torn_is_refused(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"text,label\n" + b"one,a\n" * 999)[:-30])
    assert "cannot be read" in refusal(tmp_path / "a.csv.gz").problem


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary(3), pa.binary_view()])
def test_columns_of_bytes_are_read_as_text(tmp_path, kind):
    texts = pa.array([b"one", b"t\xc3\xb6", None], kind)
    table = pa.table({"text": texts, "label": pa.array([b"a", b"b", b"c"])})
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    source = source_of(str(tmp_path / "a.arrow"), "train", DataSpec(train="x"))
    assert [row.values["text"] for row in rows_of(source)] == ["one", "t\u00f6", None]


def test_bytes_that_are_no_text_are_faults(read, tmp_path):
    images = [b"\x89PNG\r\n" + bytes([128 + i]) for i in range(30)]
    table = pa.table({"text": images, "label": [b"ab"[i % 2 :][:1] for i in range(30)]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="30 rows that do not decode .*byte 0x89"):
        read(str(tmp_path / "a.parquet"))
