"""What each format gives, and the errors for files that are none of them."""

from __future__ import annotations

import codecs
import gzip
import json
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ftray.data.sources import rows_of, source_of
from ftray.errors import DataError
from ftray.spec.schema import Columns, DataSpec


def found(path, **data):
    spec = DataSpec(train=str(path), **data)
    return list(rows_of(source_of(str(path), "train", spec)))


def refusal(path, **data):
    with pytest.raises(DataError) as caught:
        found(path, **data)
    (problem,) = caught.value.problems
    return problem


def test_csv_keeps_commas_quotes_and_line_breaks_inside_quotes(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'id,text,label\r\n1,"one, ""two""\r\nthree",a\r\n\r\n2,plain,b\r\n')
    one, two = found(path)
    assert one.values == {"id": "1", "text": 'one, "two"\r\nthree', "label": "a"}
    assert one.where.endswith("a.csv:2")
    assert two.where.endswith("a.csv:5"), "the line it starts on, breaks and blank lines counted"


def test_csv_lines_end_at_line_breaks_only(tmp_path):
    # Unicode's other separators, and latin-1's 0x85, are text.
    path = tmp_path / "a.csv"
    path.write_bytes("text,label\none\u2028two\x0bthree\x85,a\n".encode())
    (row,) = found(path)
    assert row.values["text"] == "one\u2028two\x0bthree\x85"


def test_tsv_is_split_at_tabs(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("text\tlabel\none, two\ta\n")
    assert found(path)[0].values == {"text": "one, two", "label": "a"}


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_byte_order_mark_is_no_part_of_the_first_name(tmp_path, name):
    body = b"text,label\none,a\n" if name == "a.csv" else b'{"text": "one", "label": "a"}\n'
    (tmp_path / name).write_bytes(codecs.BOM_UTF8 + body)
    assert found(tmp_path / name)[0].values == {"text": "one", "label": "a"}


def test_ragged_rows_say_how_many_fields_they_have(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\none,a\ntwo,b,c\nthree\nfour,a\n")
    rows = found(path)
    assert [row.fault and row.fault.kind for row in rows] == [None, "ragged", "ragged", None]
    assert rows[1].fault.detail == "3 fields instead of 2"
    assert rows[1].values == {"fields": ["two", "b", "c"]}, "what was there goes to quarantine"


def test_many_open_quotes_are_read_in_good_time(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + 'one,"a\ntwo,b\n' * 5000)
    start = time.process_time()
    rows = found(path)
    assert time.process_time() - start < 5, "0.2 s on a quiet machine"
    assert sum(not row.fault for row in rows) == 10_000


def test_a_field_may_be_as_long_as_a_book(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(f"text,label\n{'word ' * 100_000},a\n")
    assert len(found(path)[0].values["text"]) == 500_000


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".json"])
def test_json_lines(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_text('{"text": "one\\ntwo", "label": 1}\r\n\n{"label": "b", "text": null}\n')
    one, two = found(path)
    assert one.values == {"text": "one\ntwo", "label": 1}
    assert (two.values["text"], two.where.rpartition(":")[2]) == (None, "3")


def test_a_json_array_is_read_too(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": "one", "label": "a"}, 3], indent=1))
    one, two = found(path)
    assert one.values == {"text": "one", "label": "a"}
    assert two.fault.kind == "not_json"


def test_lines_that_are_no_json_objects(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one", "label": "a"}\n{"text": "tw\n["three"]\n')
    rows = found(path)
    assert [row.fault and row.fault.kind for row in rows] == [None, "not_json", "not_json"]
    assert rows[1].values == {"line": '{"text": "tw'}


def test_a_key_may_be_missing_on_some_lines_but_not_on_all(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n{"text": "two", "label": "a"}\n')
    assert "label" not in found(path)[0].values
    path.write_text('{"text": "one"}\n{"text": "two"}\n')
    assert refusal(path).key == "data.columns.label"


@pytest.mark.parametrize("kind", ["parquet", "file", "stream", "feather"])
def test_columnar_formats_read_the_needed_columns_and_count_rows(tmp_path, kind):
    table = pa.table(
        {
            "text": pa.array(["one", None]).dictionary_encode(),
            "label": pa.array([1, 2], pa.int8()),
            "vector": pa.array([[0.5], [0.25]]),
        }
    )
    path = tmp_path / {"parquet": "a.parquet", "feather": "a.feather"}.get(kind, "a.arrow")
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        new = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
        with new(path, table.schema) as writer:
            writer.write_table(table)
    one, two = found(path)
    assert one.values == {"text": "one", "label": 1}
    assert two.values == {"text": None, "label": 2}
    assert two.where.rpartition(":")[2] == "2"


def test_compressed_text_is_read(tmp_path):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"text,label\none,a\n"))
    assert found(path)[0].values["text"] == "one"


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json"])
@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    problem = refusal(tmp_path / name)
    assert (problem.key, "is empty" in problem.problem) == ("data.train", True)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.csv.gz"])
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"text,label\none,a\n")
    problem = refusal(tmp_path / name)
    assert "cannot be read" in problem.problem and name in problem.problem


def test_an_unknown_suffix_names_the_known_ones(tmp_path):
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    problem = refusal(tmp_path / "a.xlsx")
    assert ".xlsx" in problem.problem and ".parquet" in problem.fix


def test_a_missing_column_names_those_there_and_the_nearest(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("Text,sentiment\none,a\n")
    problem = refusal(path, columns=Columns(label="sentiment"))
    assert (problem.key, problem.value) == ("data.columns.text", "text")
    assert "Text, sentiment" in problem.problem and "data.train" in problem.problem
    assert "Did you mean Text?" in problem.fix


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label,text\none,a,two\n")
    assert "2 of them" in refusal(path).problem


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "gbk"])
def test_other_encodings_are_read_as_the_spec_says(tmp_path, encoding):
    text = "一二" if encoding == "gbk" else "é ü ÿ"
    path = tmp_path / "a.csv"
    path.write_bytes(f"text,label\n{text},a\n".encode(encoding))
    assert found(path, encoding=encoding)[0].values["text"] == text


@pytest.mark.parametrize("encoding", ["utf-7000", "base64", "rot13"])
def test_what_is_no_text_encoding_is_refused(tmp_path, encoding):
    (tmp_path / "a.csv").write_text("text,label\none,a\n")
    problem = refusal(tmp_path / "a.csv", encoding=encoding)
    assert (problem.key, problem.value) == ("data.encoding", encoding)


def test_utf_16_read_as_utf_8_is_recognised(tmp_path):
    (tmp_path / "a.csv").write_bytes("text,label\none,a\n".encode("utf-16"))
    assert "data.encoding: utf-16" in refusal(tmp_path / "a.csv").fix


def test_a_file_that_the_encoding_cannot_be_tried_on_is_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"text,label\none,a\n\n")
    assert refusal(tmp_path / "a.csv", encoding="utf-32").key == "data.encoding"
