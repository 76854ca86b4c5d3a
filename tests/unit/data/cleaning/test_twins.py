"""Duplicates within a split and rows that leak from one split into another."""

from __future__ import annotations

import pytest

from ftray.errors import DataError


def texts(dataset, split):
    return dataset.splits[split].table()["text"].to_pylist()


def test_the_first_of_twins_is_kept(read, jsonl, rows):
    duplicates = [
        {"text": "Text  NUMBER 3", "label": "b"},
        {"text": "text number 3 ", "label": "b"},
    ]
    path = jsonl([*rows, *duplicates])
    dataset = read(path)
    assert dataset.report.sources["train"].dropped == {"duplicate": 2}
    assert [row.detail for row in dataset.dropped()] == [f"of {path}:4"] * 2
    assert dataset.digest == read(jsonl(rows, "without.jsonl")).digest


def test_twins_that_contradict_each_other_all_go(read, jsonl, rows):
    duplicates = [{"text": "text number 3", "label": label} for label in "ab"]
    dataset = read(jsonl([*rows, *duplicates]))
    assert dataset.report.sources["train"].dropped == {"conflicting_duplicate": 3}
    without = [row for row in rows if row["text"] != "text number 3"]
    assert dataset.digest == read(jsonl(without, "without.jsonl")).digest


def test_rows_of_train_that_are_in_a_held_out_source_leave_train(read, jsonl, rows):
    held_out = [{"text": f"held out {i}", "label": "ab"[i % 2]} for i in range(8)]
    # A twin leaks whatever its label is.
    leaks = [{"text": "HELD OUT 1", "label": "a"}, {"text": "held out 7", "label": "b"}]
    dataset = read(
        jsonl([*rows, *leaks]),
        validation=jsonl(held_out[:4], "validation.jsonl"),
        test=jsonl([*held_out[4:], held_out[0]], "test.jsonl"),
    )
    assert dataset.report.sources["train"].dropped == {"leaked": 2}
    assert dataset.report.sources["validation"].dropped == {"leaked": 1}
    assert texts(dataset, "validation") == ["held out 1", "held out 2", "held out 3"]
    assert texts(dataset, "test") == [f"held out {i}" for i in (4, 5, 6, 7, 0)]
    assert {row.detail for row in dataset.dropped()} == {
        "its twin is in validation",
        "its twin is in test",
    }


@pytest.mark.parametrize("own", ["validation", "test"])
def test_a_share_is_taken_after_leaks_are_gone(read, jsonl, rows, own):
    dataset = read(jsonl(rows), **{own: jsonl(rows[:10], "own.jsonl")})
    seen = [" ".join(t.split()).casefold() for s in dataset.splits for t in texts(dataset, s)]
    assert len(seen) == len(set(seen)) == 30
    assert dataset.report.sources["train"].dropped == {"leaked": 10}


def test_train_that_is_all_in_test_is_refused(read, jsonl, rows):
    with pytest.raises(
        DataError, match=r"no usable row is left \(30 rows that another split has\)"
    ):
        read(jsonl(rows), test=jsonl(rows, "test.jsonl"))


def test_a_label_that_leaks_away_is_unknown_in_validation(read, jsonl, rows):
    own = jsonl([{"text": "rare", "label": "c"}, *rows[:2]], "validation.jsonl")
    with pytest.raises(DataError, match="rows? with an unknown label"):
        read(jsonl([*rows, {"text": "rare", "label": "c"}]), validation=own)


def test_no_row_is_lost_without_being_counted(read, jsonl, rows):
    bad = [{"text": "", "label": "a"}, rows[0], {"text": "text number 5", "label": "a"}]
    dataset = read(jsonl([*rows, *bad]), test=jsonl([*rows[:3], bad[0]], "test.jsonl"),
                   on_bad_row="skip")  # fmt: skip
    report = dataset.report
    kept = sum(report.rows(split) for split in report.splits)
    assert sum(count.read for count in report.sources.values()) == 37
    assert kept + len([*dataset.dropped()]) == 37
    assert kept == sum(count.kept for count in report.sources.values())
    assert report.to_json()["rows"] == {s: t.num_rows for s, t in dataset.splits.items()}
    text = "\n".join(report.lines())
    assert (
        "train: 33 rows read" in text and "1 row without text" in text and "test split: 3" in text
    )
