"""One source without a split, as evaluation and batch prediction read it."""

from __future__ import annotations

import pytest

from ftray.data.sources import read_source
from ftray.errors import DataError
from ftray.tasks import get_task

TASK = get_task("text-classification")
COLUMNS = {"text": "text", "label": "label"}


def test_prediction_needs_no_labels_and_keeps_twins(jsonl):
    path = jsonl([{"text": "one"}, {"text": "two"}, {"text": "one"}])
    table, report, quarantine = read_source(path, COLUMNS, TASK, answered=False)
    assert table.to_pydict() == {
        "text": ["one", "two", "one"],
        "where": [f"{path}:{line}" for line in (1, 2, 3)],
    }
    assert report.sources["data"].read == report.rows("data") == 3
    assert quarantine == ()


def test_prediction_says_which_rows_it_skips(jsonl):
    path = jsonl([{"text": "one"}, {"text": ""}, {"text": "three"}])
    with pytest.raises(DataError, match="--data = .*1 row without text"):
        read_source(path, COLUMNS, TASK, answered=False)
    table, _, (dropped,) = read_source(path, COLUMNS, TASK, on_bad_row="skip", answered=False)
    assert table["where"].to_pylist() == [f"{path}:1", f"{path}:3"]
    assert dropped.where == f"{path}:2"


def test_prediction_takes_a_folder_per_label(tmp_path):
    (tmp_path / "topic").mkdir()
    (tmp_path / "topic" / "1.txt").write_text("one")
    table, _, _ = read_source(str(tmp_path), COLUMNS, TASK, answered=False)
    assert table.column_names == ["text", "where"]


def test_evaluation_drops_twins_and_refuses_labels_the_model_lacks(jsonl, rows):
    path = jsonl([*rows, rows[0], {"text": "new", "label": "c"}])
    with pytest.raises(DataError, match=r"Unknown: 'c' \(1 row\); known: a, b"):
        read_source(path, COLUMNS, TASK, labels=("a", "b"))
    table, report, _ = read_source(path, COLUMNS, TASK, on_bad_row="skip", labels=("a", "b"))
    assert table.select(["text", "label"]).to_pylist() == rows
    assert report.sources["data"].dropped == {"duplicate": 1, "unknown_label": 1}
    assert report.splits["data"] == {"a": 15, "b": 15}


def test_evaluation_needs_the_label_column(jsonl):
    with pytest.raises(DataError) as caught:
        read_source(jsonl([{"text": "one"}]), COLUMNS, TASK)
    assert caught.value.problems[0].key == "data.columns.label"
    assert "--data" in str(caught.value)
