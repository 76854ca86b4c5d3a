"""Splits by group and by time."""

from __future__ import annotations

import json
import random
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ftray.data.dataset import read_dataset
from ftray.data.split import by_group, by_time, moment
from ftray.errors import DataError, SpecError
from ftray.spec.load import parse

SHARES = {"validation": 0.1, "test": 0.2}


def spec_of(folder: Path, rows: list[dict[str, Any]], **data: Any) -> Any:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tree = {"name": "x", "model": {"name_or_path": "m"}, "data": {"train": str(file), **data}}
    return parse({**tree, "data": {**tree["data"], **SHARES}})


def rows(count: int = 200) -> list[dict[str, Any]]:
    draw = random.Random(3)
    return [
        {
            "text": f"row {number}",
            "label": draw.choice(["a", "b"]),
            "author": f"author {draw.randrange(20)}",
            "day": f"2026-{draw.randrange(1, 13):02}-{draw.randrange(1, 29):02}",
        }
        for number in range(count)
    ]


def codes(groups: list[str]) -> np.ndarray:
    """The place of each group among the sorted groups."""
    return np.unique(groups, return_inverse=True)[1]


def test_a_group_is_in_one_split_only() -> None:
    draw = random.Random(0)
    groups = [f"g{draw.randrange(40)}" for _ in range(1000)]
    splits = by_group(codes(groups), SHARES, seed=1)
    found = {name: {groups[row] for row in of} for name, of in splits.items()}
    assert not found["train"] & found["test"] and not found["validation"] & found["test"]
    assert not found["train"] & found["validation"]
    assert sorted(np.concatenate(list(splits.values()))) == list(range(1000))
    assert len(splits["test"]) == pytest.approx(200, abs=30)
    assert len(splits["validation"]) == pytest.approx(100, abs=30)


def test_groups_are_drawn_by_the_seed() -> None:
    groups = [f"g{number % 50}" for number in range(500)]
    first, again, other = (
        by_group(codes(groups), SHARES, seed)["test"].tolist() for seed in (1, 1, 2)
    )
    assert first == again != other


def test_one_group_stays_in_train() -> None:
    splits = by_group(codes(["only"] * 50), SHARES, seed=1)
    assert len(splits["train"]) == 50


def test_later_rows_are_held_out_and_the_latest_tested() -> None:
    times = list(np.random.default_rng(0).permutation(100))
    splits = {
        name: [times[row] for row in of] for name, of in by_time(np.array(times), SHARES).items()
    }
    assert max(splits["train"]) < min(splits["validation"])
    assert max(splits["validation"]) < min(splits["test"])
    assert {name: len(of) for name, of in splits.items()} == {
        "train": 70, "validation": 10, "test": 20,
    }  # fmt: skip


def test_rows_of_one_time_stay_together() -> None:
    times = [float(number // 15) for number in range(100)]
    splits = {
        name: {times[row] for row in of} for name, of in by_time(np.array(times), SHARES).items()
    }
    assert not splits["train"] & splits["validation"] and not splits["validation"] & splits["test"]


def test_times_are_numbers_dates_and_texts() -> None:
    assert moment("2026-01-31") == moment(date(2026, 1, 31)) == moment(datetime(2026, 1, 31))
    assert moment("2026-01-31T12:00:00+01:00") == moment("2026-01-31T11:00:00Z")
    assert moment(7) == moment("7") == 7.0
    for wrong in (None, True, "yesterday", float("nan"), [1]):
        with pytest.raises(ValueError):
            moment(wrong)


def texts(spec: Any) -> dict[str, list[str]]:
    """The texts of each split."""
    splits = read_dataset(spec).splits.items()
    return {name: rows.table()["text"].to_pylist() for name, rows in splits}


def test_a_spec_splits_by_group(tmp_path: Path) -> None:
    made = rows()
    spec = spec_of(tmp_path, made, split={"by": "group", "column": "author"})
    author = {row["text"]: row["author"] for row in made}
    splits = read_dataset(spec).splits
    found = {
        name: {author[text] for text in of.table()["text"].to_pylist()}
        for name, of in splits.items()
    }
    assert not found["train"] & found["test"] and not found["train"] & found["validation"]


def test_a_spec_splits_by_time(tmp_path: Path) -> None:
    made = rows()
    spec = spec_of(tmp_path, made, split={"by": "time", "column": "day"})
    day = {row["text"]: row["day"] for row in made}
    splits = read_dataset(spec).splits
    found = {
        name: [day[text] for text in of.table()["text"].to_pylist()] for name, of in splits.items()
    }
    assert max(found["train"]) < min(found["validation"])
    assert max(found["validation"]) < min(found["test"])


@pytest.mark.parametrize(
    ("split", "told"),
    [
        ({"by": "group"}, "data.split.by = group"),
        ({"by": "random", "column": "author"}, "data.split.by = random"),
        ({"by": "place", "column": "author"}, "data.split.by = place"),
    ],
)
def test_a_policy_that_cannot_be_is_named(tmp_path: Path, split: Any, told: str) -> None:
    with pytest.raises(SpecError, match=told):
        spec_of(tmp_path, rows(5), split=split)


@pytest.mark.parametrize(
    ("split", "told"),
    [
        ({"by": "group", "column": "writer"}, "data.split.column = writer: no such column"),
        ({"by": "time", "column": "author"}, "data.split.column = author"),
    ],
)
def test_a_column_that_does_not_do_is_named(tmp_path: Path, split: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        read_dataset(spec_of(tmp_path, rows(), split=split))


def test_one_group_leaves_nothing_to_hold_out(tmp_path: Path) -> None:
    made = [{**row, "author": "same"} for row in rows()]
    spec = spec_of(tmp_path, made, split={"by": "group", "column": "author"})
    with pytest.raises(DataError, match="rows with the same author stay together"):
        read_dataset(spec)


def test_a_row_without_a_value_is_told(tmp_path: Path) -> None:
    made = [{**row, "author": None if row["text"] == "row 3" else "x"} for row in rows()]
    spec = spec_of(tmp_path, made, split={"by": "group", "column": "author"})
    with pytest.raises(DataError, match="1 of 200 rows have no value in it"):
        read_dataset(spec)


def test_numbers_are_standardized_by_the_rows_of_train_alone(tmp_path: Path) -> None:
    made = [{"text": f"row {n}", "score": float(n), "day": n} for n in range(100)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in made))
    data = {"train": str(file), **SHARES, "split": {"by": "time", "column": "day"}}
    tree = {"name": "x", "task": "text-regression", "model": {"name_or_path": "m"}, "data": data}
    scale = read_dataset(parse(tree)).schema.scale
    assert scale is not None and scale.mean == (pytest.approx(34.5),)
