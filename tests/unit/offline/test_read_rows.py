"""The rows that batch prediction reads: no answers are needed, and every row gets its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftray.errors import DataError
from ftray.models.artifact.named import NamedModel
from ftray.offline.predict import Rows, read_rows
from ftray.spec.load import parse
from ftray.store.files.location import locate
from tests.helpers.serving.registered import info_of

ADDED = ("prediction", "score")


def model_of(folder: Path, **data: Any) -> NamedModel:
    """A model without weights, whose spec has these keys in the section data."""
    tree = {
        "name": "m",
        "model": {"name_or_path": "x"},
        "data": {"train": "x", "columns": {"text": "text", "label": "label"}, **data},
    }
    spec = parse(tree).model_dump(mode="json")
    return NamedModel(locate(str(folder)), "m", 1, info_of(spec=spec))


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., str]:
    """Writes rows as JSON lines and returns the path."""

    def write(rows: list[dict[str, Any]]) -> str:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Rows]:
    def run(path: str, columns: dict[str, str] | None = None, **data: Any) -> Rows:
        return read_rows(model_of(tmp_path, **data), path, columns or {}, None, ADDED)

    return run


def test_no_labels_are_needed_and_twins_stay(jsonl, read) -> None:
    path = jsonl([{"text": "one"}, {"text": "two"}, {"text": "one"}])
    rows = read(path)
    assert rows.questions == ["one", "two", "one"]
    assert rows.values == [{"text": text} for text in rows.questions]
    assert rows.places == [f"{path}:{line}" for line in (1, 2, 3)]
    assert rows.read == 3 and rows.left_out == []


def test_labels_that_are_there_are_kept_and_not_read(jsonl, read) -> None:
    found = [{"text": "one", "label": ["no", "name"]}, {"text": "two", "label": None}]
    rows = read(jsonl(found))
    assert rows.values == found and rows.questions == ["one", "two"]


def test_it_says_which_rows_it_skips(jsonl, read) -> None:
    path = jsonl([{"text": "one"}, {"text": ""}, {"text": "three"}])
    with pytest.raises(DataError, match="--data = .*1 row without text"):
        read(path)
    rows = read(path, on_bad_row="skip")
    assert rows.places == [f"{path}:1", f"{path}:3"]
    (dropped,) = rows.left_out
    assert dropped["where"] == f"{path}:2"


def test_a_folder_per_label_is_a_source(tmp_path: Path, read) -> None:
    (tmp_path / "texts" / "topic").mkdir(parents=True)
    (tmp_path / "texts" / "topic" / "1.txt").write_text("one")
    assert read(str(tmp_path / "texts")).questions == ["one"]


def test_a_column_may_have_another_name(jsonl, read) -> None:
    rows = read(jsonl([{"text": "not this", "review": "one"}]), {"text": "review"})
    assert rows.questions == ["one"]
    with pytest.raises(DataError) as caught:
        read(jsonl([{"text": "one"}]), {"text": "review"})
    assert "review" in str(caught.value)


@pytest.mark.parametrize("name", ADDED)
def test_a_column_that_prediction_adds_may_not_be_there(jsonl, read, name: str) -> None:
    with pytest.raises(DataError, match=f"has a column {name} already"):
        read(jsonl([{"text": "one"}, {"text": "two", name: 1}]))
