"""Files of predictions: every format gives the rows back, and nothing is lost by mistake."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ftray.errors import DataError
from ftray.offline.writers import open_output, write
from ftray.tasks import task_info

ROWS = [
    {"id": 1, "text": 'a "quoted", text\nof two lines', "tags": ["x"]},
    {"id": 2, "text": "naïve – 日本語"},
    {"id": None, "text": "half a pair \ud800", "tags": []},
]
LABELS, SCORES = ["good", "bad", "good"], [0.9, 0.625, 0.5]


def written(path: Path) -> Path:
    names = task_info("text-classification").outcome
    added = dict(zip(names, (LABELS, SCORES), strict=True))
    write(open_output(str(path), overwrite=False), ROWS, added)
    assert [child.name for child in path.parent.iterdir()] == [path.name]
    return path


def test_json_lines(tmp_path: Path) -> None:
    lines = written(tmp_path / "out.jsonl").read_text("utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    assert rows[0] == {**ROWS[0], "prediction": "good", "score": 0.9}
    assert rows[1] == {**ROWS[1], "prediction": "bad", "score": 0.625}
    assert rows[2]["text"] == r"half a pair \ud800"


def test_csv(tmp_path: Path) -> None:
    with written(tmp_path / "new" / "out.CSV").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "text", "tags", "prediction", "score"]
    assert rows[0]["text"] == ROWS[0]["text"]
    assert rows[0]["tags"] == '["x"]'
    assert [row["prediction"] for row in rows] == LABELS
    assert [float(row["score"]) for row in rows] == SCORES
    assert (rows[1]["tags"], rows[2]["id"]) == ("", "")


def test_parquet(tmp_path: Path) -> None:
    rows = pq.read_table(written(tmp_path / "out.parquet")).to_pylist()
    assert rows[1] == {**ROWS[1], "tags": None, "prediction": "bad", "score": 0.625}


def test_parquet_refuses_a_column_of_several_types(tmp_path: Path) -> None:
    target = open_output(str(tmp_path / "out.parquet"), overwrite=False)
    with pytest.raises(DataError, match="column id has values of several types"):
        write(target, [{"id": 1}, {"id": "two"}], {"prediction": ["a", "b"]})
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_said_beforehand(tmp_path: Path) -> None:
    there = tmp_path / "there.csv"
    there.write_text("precious")
    for out, said in (
        (there, "is there already"),
        (tmp_path / "out.xlsx", "no known format"),
        (tmp_path / "out", "no known format"),
    ):
        with pytest.raises(DataError, match=said):
            open_output(str(out), overwrite=False)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        open_output(str(tmp_path / "folder.csv"), overwrite=True)
    assert there.read_text() == "precious"
    write(
        open_output(str(there), overwrite=True), [{"id": 1}], {"prediction": ["a"], "score": [0.5]}
    )
    assert there.read_text() == "id,prediction,score\n1,a,0.5\n"
