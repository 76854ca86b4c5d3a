"""Rows that cannot be used: found, counted, shown; refused or set aside as the spec says."""

from __future__ import annotations

import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ftray.data.cleaning.report import in_words
from ftray.errors import DataError

FAULTS = [
    ({"text": "", "label": "a"}, "empty_text"),
    ({"text": " \n\t", "label": "a"}, "empty_text"),
    ({"text": "\u200b\ufeff\u00a0", "label": "a"}, "empty_text"),
    ({"text": "\u0301", "label": "a"}, "empty_text"),
    ({"text": "\u3164\u2800\ufffd\0", "label": "a"}, "empty_text"),
    ({"text": None, "label": "a"}, "empty_text"),
    ({"text": math.nan, "label": "a"}, "empty_text"),
    ({"label": "a"}, "empty_text"),
    ({"text": 7, "label": "a"}, "text_not_a_string"),
    ({"text": ["x"], "label": "a"}, "text_not_a_string"),
    ({"text": "no label", "label": None}, "missing_label"),
    ({"text": "no label", "label": " "}, "missing_label"),
    ({"text": "no label", "label": math.nan}, "missing_label"),
    ({"text": "no label"}, "missing_label"),
    ({"text": "half a \ud83d character", "label": "a"}, "bad_encoding"),
    ({"text": "label with half a character", "label": "\udc00"}, "bad_encoding"),
]


@pytest.mark.parametrize("bad, kind", FAULTS)
def test_each_fault_is_refused_with_its_place_and_the_fix(read, jsonl, rows, bad, kind):
    path = jsonl([*rows, bad])
    with pytest.raises(DataError) as caught:
        read(path)
    (problem,) = caught.value.problems
    assert (problem.key, problem.value) == ("data.train", path)
    assert "1 of 31 rows cannot be used" in problem.problem
    assert f"{in_words(kind, 1)} ({path}:31" in problem.problem
    assert "data.on_bad_row: skip" in problem.fix
    assert ("data.encoding" in problem.fix) == (kind == "bad_encoding")


@pytest.mark.parametrize("bad, kind", FAULTS)
def test_each_fault_is_set_aside_when_skipped(read, jsonl, rows, bad, kind):
    path = jsonl([bad, *rows])
    dataset = read(path, on_bad_row="skip")
    assert dataset.report.sources["train"].dropped == {kind: 1}
    assert dataset.digest == read(jsonl(rows, "good.jsonl")).digest
    (row,) = dataset.dropped()
    assert (row.source, row.where, row.kind) == ("train", f"{path}:1", kind)
    assert json.loads(json.dumps(row.to_json()))["kind"] == kind, "surrogates and all"


def test_one_message_counts_all_kinds_and_shows_the_first_places(read, tmp_path):
    good = "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(20))
    path = tmp_path / "a.csv"
    path.write_text(f"text,label\n{good}" + ",a\n" * 5 + "x,a,b\n")
    with pytest.raises(DataError) as caught:
        read(str(path))
    message = str(caught.value)
    assert "6 of 26 rows cannot be used: 5 rows without text" in message
    assert f"({path}:22, {path}:23, {path}:24, ...)" in message
    assert f"1 row with other fields ({path}:27: 3 fields instead of 2)" in message


def test_every_source_is_reported_in_one_go(read, jsonl, rows):
    bad = {"text": "", "label": "a"}
    paths = {name: jsonl([*rows, bad], f"{name}.jsonl") for name in ("train", "test")}
    with pytest.raises(DataError) as caught:
        read(**paths)
    assert [problem.key for problem in caught.value.problems] == ["data.train", "data.test"]


def latin_1(tmp_path, odd_rows, utf8_rows=0):
    lines = [b"text,label"] + [b"plain %d,%s" % (i, b"ab"[i % 2 :][:1]) for i in range(30)]
    lines += [f"odd é {i},a".encode("latin-1") for i in range(odd_rows)]
    lines += [f"good é {i},a".encode() for i in range(utf8_rows)]
    path = tmp_path / "a.csv"
    path.write_bytes(b"\n".join(lines))
    return path


def test_a_source_in_another_encoding_as_a_whole_is_recognised(read, tmp_path):
    path = latin_1(tmp_path, odd_rows=5)
    with pytest.raises(DataError) as caught:
        read(str(path))
    message = str(caught.value)
    assert f"5 rows that do not decode ({path}:32: byte 0xe9 at character 5" in message
    assert "the whole source seems to be in another encoding" in message
    assert "Set data.encoding to the file's own, for example latin-1" in message
    dataset = read(str(path), encoding="latin-1")
    assert "odd é 0" in [t for s in dataset.splits.values() for t in s.table()["text"].to_pylist()]


def test_a_few_bad_bytes_do_not_make_it_another_encoding(read, tmp_path):
    with pytest.raises(DataError) as caught:
        read(str(latin_1(tmp_path, odd_rows=1, utf8_rows=20)))
    assert "another encoding" not in str(caught.value)


def test_bad_bytes_in_a_column_that_is_not_used_do_no_harm(read, tmp_path):
    path = tmp_path / "a.csv"
    lines = [b"text,label,user"] + [b"t %d,%s,\xe9" % (i, b"ab"[i % 2 :][:1]) for i in range(30)]
    path.write_bytes(b"\n".join(lines))
    assert sum(read(str(path)).report.splits["train"].values()) == 24


def test_labels_that_became_floats_are_whole_numbers_again(read, tmp_path):
    # pandas writes 1.0 for 1 as soon as one label of a column is missing.
    labels = [float(i % 2) for i in range(30)] + [None]
    texts = [f"text {i}" for i in range(31)]
    pq.write_table(pa.table({"text": texts, "label": labels}), tmp_path / "a.parquet")
    dataset = read(str(tmp_path / "a.parquet"), on_bad_row="skip")
    assert dataset.schema.labels == ("0", "1")
    assert dataset.report.sources["train"].dropped == {"missing_label": 1}


def test_a_label_that_train_lacks(read, jsonl, rows):
    train, test = jsonl(rows), jsonl([{"text": "new", "label": "c"}, *_others(10)], "test.jsonl")
    with pytest.raises(DataError) as caught:
        read(train, test=test)
    (problem,) = caught.value.problems
    assert problem.key == "data.test"
    assert "1 row with an unknown label" in problem.problem and f"({test}:1: c)" in problem.problem
    assert "Unknown: 'c' (1 row); known: a, b" in problem.problem
    dataset = read(train, test=test, on_bad_row="skip")
    assert dataset.report.sources["test"].dropped == {"unknown_label": 1}
    assert dataset.report.rows("test") == 10


def test_one_label_only(read, jsonl):
    path = jsonl([{"text": f"text {i}", "label": "pos"} for i in range(30)])
    with pytest.raises(DataError) as caught:
        read(path)
    (problem,) = caught.value.problems
    assert problem.key == "data.train" and "one label, 'pos'" in problem.problem
    assert "data.columns.label" in problem.fix


def test_no_rows_at_all(read, tmp_path):
    (tmp_path / "a.csv").write_text("text,label\n")
    with pytest.raises(DataError, match="no rows in it"):
        read(str(tmp_path / "a.csv"))


def test_no_usable_rows(read, jsonl):
    path = jsonl([{"text": "", "label": "a"}] * 3)
    with pytest.raises(DataError, match=r"no usable row is left \(3 rows without text\)"):
        read(path, on_bad_row="skip")


@pytest.mark.parametrize("name", ["validation", "test"])
def test_a_share_too_small_for_a_row_is_refused(read, jsonl, rows, name):
    with pytest.raises(DataError) as caught:
        read(jsonl(rows), **{name: 0.01})
    (problem,) = caught.value.problems
    assert (problem.key, problem.value) == (f"data.{name}", "0.01")
    assert "30 usable rows" in problem.problem


def _others(count):
    return [{"text": f"other {i}", "label": "ab"[i % 2]} for i in range(count)]
