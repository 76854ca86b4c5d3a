"""JSON as people have it: a line a row, or one document that holds the rows somewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftray.data.readers import json_array
from ftray.data.sources import rows_of, source_of
from ftray.errors import DataError
from ftray.spec.schema import Columns, DataSpec

ROWS = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(4)]
BY_COLUMN = {name: [row[name] for row in ROWS] for name in ("text", "label")}


@pytest.fixture
def found(tmp_path):
    """Rows and notes of a file with that content."""

    def read(content, name="a.json", **data):
        text = content if isinstance(content, str) else json.dumps(content, indent=2)
        (tmp_path / name).write_text(text)
        source = source_of(str(tmp_path / name), "train", DataSpec(train="x", **data))
        return list(rows_of(source)), source.notes

    return read


DOCUMENTS = {
    "array": ROWS,
    "below a key": {"data": ROWS},
    "below a key, with more": {"version": "1.0", "meta": {"tags": ["x"]}, "data": ROWS},
    "deeper": {"result": {"count": 4, "items": ROWS}},
    "beside another list": {"fields": [{"name": "text"}], "data": ROWS},
    "by ids": {"id-1": ROWS[0], "id-2": ROWS[1], "id-3": ROWS[2], "id-4": ROWS[3]},
    "by column": BY_COLUMN,
    "pandas": {name: {str(i): v for i, v in enumerate(vs)} for name, vs in BY_COLUMN.items()},
    "pandas split": {
        "columns": ["text", "label"],
        "index": [0, 1, 2, 3],
        "data": [[row["text"], row["label"]] for row in ROWS],
    },
    "objects over lines": "\n".join(json.dumps(row, indent=2) for row in ROWS),
    "objects on one line": "".join(map(json.dumps, ROWS)),
}


@pytest.mark.parametrize("kind", DOCUMENTS)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_rows_are_found_in_documents_of_many_kinds(found, kind, name):
    rows, _ = found(DOCUMENTS[kind], name)
    assert [row.values for row in rows] == ROWS
    assert [row.where.rpartition(":")[2] for row in rows] == ["1", "2", "3", "4"]


def test_a_document_on_one_line_is_found_too(found):
    rows, notes = found(json.dumps({"data": ROWS}))
    assert [row.values for row in rows] == ROWS
    assert notes[0].endswith("a.json: the rows are below data")


def test_one_chat_is_one_row(found):
    chat = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    columns = Columns(text="messages", label="messages")
    (row,), _ = found(json.dumps(chat), "a.jsonl", columns=columns)
    assert row.values == chat


@pytest.mark.parametrize(
    "document, problem",
    [
        ({"train": ROWS, "test": ROWS}, "several lists of rows: train, test"),
        ({"name": "x", "size": 3}, "no such column in .*, which has: name, size"),
        ("[" + json.dumps(ROWS[0]) + ",", "no JSON, neither as a whole nor line by line"),
        ('{\n "data": [\n  {"text":', "no JSON, neither as a whole nor line by line"),
        ("text,label\none,a\n", "rows cannot be used"),
    ],
)
def test_a_document_without_rows_says_what_it_is(found, read, tmp_path, document, problem):
    path = tmp_path / "a.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    with pytest.raises(DataError, match=problem):
        read(str(path))


@pytest.mark.parametrize(
    "value, detail",
    [
        ("9" * 5000, "thousands of digits"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ("[" * 900 + "]" * 900, "nested too deeply"),
        ('{"a":' * 990 + "1" + "}" * 990, "nested too deeply"),
    ],
)
def test_numbers_and_nesting_beyond_reason_cost_one_row(found, read, jsonl, rows, value, detail):
    line = f'{{"text": "x", "label": {value}}}\n'
    good = "".join(json.dumps(row) + "\n" for row in rows)
    *_, bad = found(good + line, "a.jsonl")[0]
    assert (bad.fault.kind, bad.fault.detail) == ("not_json", bad.fault.detail)
    assert detail in bad.fault.detail
    path = bad.where.rpartition(":")[0]
    dataset = read(path, on_bad_row="skip")
    assert dataset.report.sources["train"].dropped == {"not_json": 1}
    json.dumps(next(dataset.dropped()).to_json())
    # In an array it is one row too, unless the array itself cannot be read.
    with pytest.raises(DataError):
        read(_array(path, good, line))


def _array(path, good, line):
    other = Path(path).with_name("b.json")
    other.write_text("[" + ",".join((good + line).splitlines()) + "]")
    return str(other)


@pytest.mark.parametrize("indent", [None, 1, 4])
@pytest.mark.parametrize("lines", [1, 2, 4096])
def test_an_array_over_several_lines_is_read_piece_by_piece(
    found, monkeypatch, indent: int | None, lines: int
) -> None:
    monkeypatch.setattr(json_array, "_LINES", lines)
    rows = [
        {"text": f"brackets ]}}, {n} \\", "label": n, "more": [n, {"a": [n]}]} for n in range(9)
    ]
    document = "[\n" + ",\n".join(json.dumps(row, indent=indent) for row in rows) + "\n]\n"
    read, _ = found(document, "a.json")
    assert [row.values for row in read] == rows
    assert [row.where.rpartition(":")[2] for row in read] == [str(n) for n in range(1, 10)]


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ('[\n{"text": "a", "label": 1}\n{"text": "b"}]', "line 3 column 1"),
        ('[\n{"text": "a", "label": 1},\n', "line 3 column 1"),
        ('[\n{"text": "a", "label": 1},\n{"text": nonsense}]', "line 3 column 10"),
        ('[\n{"text": "a", "label": 1}\n]\nmore', "Extra data: line 4 column 1"),
        ("[\n" + "9" * 5000 + "]", "a number of thousands of digits"),
        ("[\n" + "[" * 100_000, "nested too deeply"),
    ],
)
def test_an_array_that_is_broken_is_told_with_its_line(
    found, monkeypatch, document: str, told: str
) -> None:
    monkeypatch.setattr(json_array, "_LINES", 1)
    with pytest.raises(DataError, match="no JSON, neither as a whole nor line by line.*" + told):
        found(document, "a.json")
