"""One source without a split, as evaluation reads it."""

from __future__ import annotations

import pytest

from ftray.data.dataset import read_source
from ftray.errors import DataError
from ftray.tasks import get_task

TASK = get_task("text-classification")
COLUMNS = {"text": "text", "label": "label"}


def test_evaluation_drops_twins_and_refuses_labels_the_model_lacks(jsonl, rows):
    path = jsonl([*rows, rows[0], {"text": "new", "label": "c"}])
    with pytest.raises(DataError, match=r"Unknown: 'c' \(1 row\); known: a, b"):
        read_source(path, COLUMNS, TASK, labels=("a", "b"))
    kept, report = read_source(path, COLUMNS, TASK, on_bad_row="skip", labels=("a", "b"))
    assert kept.table().to_pylist() == rows
    assert report.sources["data"].dropped == {"duplicate": 1, "unknown_label": 1}
    assert report.splits["data"] == {"a": 15, "b": 15}


def test_evaluation_needs_the_label_column(jsonl):
    with pytest.raises(DataError) as caught:
        read_source(jsonl([{"text": "one"}]), COLUMNS, TASK)
    assert caught.value.problems[0].key == "data.columns.label"
    assert "--data" in str(caught.value)


def test_all_columns_that_are_missing_are_named_at_once(read, jsonl):
    with pytest.raises(DataError) as caught:
        read(jsonl([{"review": "Fine.", "stars": "good"}]))
    assert [problem.key for problem in caught.value.problems] == [
        "data.columns.text",
        "data.columns.label",
    ]
