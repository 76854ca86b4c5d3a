"""The page that compares runs, and the significance of what it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ftray.reports.compare.paired import paired
from ftray.reports.record import RunRecord
from ftray.reports.test_rows import TestRows
from ftray.reports.write import comparison, write_comparison
from ftray.store.root import Root
from tests.helpers.training.recorded_runs import (
    Page,
    events,
    info,
    outcomes,
    root_in,
    samples,
    spec,
    trained,
)

IDS = ("20260101-000000-aaaaaa", "20260102-000000-bbbbbb", "20260103-000000-cccccc")


def record(root: Root, run_id: str, rows: TestRows | None, **sections: object) -> RunRecord:
    of = spec(**sections)
    kept = None if rows is None else samples(rows)
    made = trained(root, run_id, of, list(events()), rows=rows, samples=kept, info=info(of, run_id))
    return RunRecord.read(root, made)


def test_runs_are_compared_row_by_row_and_key_by_key(tmp_path: Path) -> None:
    root = root_in(tmp_path)
    first = record(root, IDS[0], outcomes(300, skill=0.5), train={"epochs": 2})
    better = record(root, IDS[1], outcomes(300, skill=3.0), train={"epochs": 4})
    same = record(root, IDS[2], outcomes(300, skill=0.5), train={"epochs": 2})
    page = Page(comparison([first, better, same]))
    assert page.headings == ["The same test rows", "Metrics", "Curves", "What differs"]
    assert "reviews bbbbbb does better than reviews aaaaaa in accuracy and macro-F1" in page.text
    assert "reviews cccccc cannot be told from reviews aaaaaa" in page.text
    assert "0 rows mended, 0 broken, of 300" in page.text
    assert "train.epochs" in page.text and "train.batch_size" not in page.text
    assert page.plots == ["Macro-F1 by epoch", "Validation loss by epoch", "Training loss by epoch"]


def test_the_gain_is_that_of_the_rows_and_changed_rows_are_counted(tmp_path: Path) -> None:
    root = root_in(tmp_path)
    first = record(root, IDS[0], outcomes(300, skill=0.5))
    better = record(root, IDS[1], outcomes(300, skill=3.0))
    found = paired(better, first)
    assert first.rows is not None and better.rows is not None
    right, was_right = better.rows.errors == 0, first.rows.errors == 0
    gain = found.gains["accuracy"]
    assert gain.value == pytest.approx(right.mean() - was_right.mean())
    assert 0 < gain.low < gain.value < gain.high
    assert len(found.mended) - len(found.broken) == right.sum() - was_right.sum()
    back = paired(first, better)
    assert back.gains["accuracy"].value == pytest.approx(-gain.value)
    assert sorted(back.broken) == sorted(found.mended)


def test_a_task_without_labels_is_compared_by_its_errors(tmp_path: Path) -> None:
    root, rows = root_in(tmp_path), outcomes(100)
    told = {"task": "question-answering"}
    own = replace(rows, truth=["x"] * 100, predicted=["y"] * 100, shares=None)
    first = record(root, IDS[0], replace(own, errors=np.full(100, 0.5)), **told)
    better = record(root, IDS[1], replace(own, errors=np.full(100, 0.25)), **told)
    assert paired(better, first).gains["error"].value == pytest.approx(0.25)
    assert "reviews bbbbbb does better" in Page(comparison([first, better])).text


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (None, "Not all of the runs have kept their answers"),
        (outcomes(60), "tested on different rows"),
    ],
)
def test_runs_without_the_same_test_rows_are_compared_by_the_rest(
    tmp_path: Path, other: TestRows | None, said: str
) -> None:
    root = root_in(tmp_path)
    runs = [record(root, IDS[0], outcomes(90)), record(root, IDS[1], other)]
    page = Page(comparison(runs))
    assert said in page.text and "test: accuracy" in page.text
    file = write_comparison(runs, root.runs("reviews") / IDS[1])
    assert file is not None and file.name == f"compare-{IDS[0]}.html" and file.is_file()
