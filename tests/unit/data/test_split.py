"""The stratified split: exact, seeded, and indifferent to how the rows are stored."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from ftray.data.split import stratify


def test_shares_are_exact_over_all_and_within_a_row_of_exact_in_each_label():
    targets = ["a"] * 505 + ["b"] * 333 + ["c"] * 162
    splits = stratify(targets, {"validation": 0.1, "test": 0.25}, seed=7)
    assert {name: len(rows) for name, rows in splits.items()} == {
        "train": 650,
        "validation": 100,
        "test": 250,
    }
    for name, share in (("validation", 0.1), ("test", 0.25)):
        counts = Counter(targets[i] for i in splits[name])
        for label in "abc":
            assert abs(counts[label] - share * targets.count(label)) < 1


def test_every_row_is_in_one_split_and_in_order():
    splits = stratify(list("abcabcabb" * 20), {"validation": 0.2, "test": 0.1}, seed=1)
    assert sorted(np.concatenate(list(splits.values()))) == list(range(180))
    assert all((np.diff(rows) > 0).all() for rows in splits.values())


def test_the_draw_is_the_same_on_every_machine():
    splits = stratify(["ab"[i % 2] for i in range(40)], {"validation": 0.1, "test": 0.1}, seed=42)
    assert splits["validation"].tolist() == [4, 8, 17, 27]
    assert splits["test"].tolist() == [25, 28, 35, 36]


def test_another_seed_draws_other_rows():
    targets = ["ab"[i % 2] for i in range(200)]
    one, two = (stratify(targets, {"test": 0.2}, seed)["test"].tolist() for seed in (1, 2))
    assert one != two and len(one) == len(two)


def test_labels_with_few_rows_stay_in_train():
    targets = ["a"] * 50 + ["b"] * 50 + ["rare"] + ["two"] * 2
    splits = stratify(targets, {"validation": 0.4, "test": 0.4}, seed=3)
    counts = Counter(targets[i] for i in splits["train"])
    assert counts["rare"] == 1 and counts["two"] >= 1


def test_a_rare_label_is_reported(read, jsonl, rows):
    dataset = read(jsonl([*rows, {"text": "rare", "label": "c"}]))
    assert dataset.labels == ("a", "b", "c")
    assert dataset.report.splits["train"]["c"] == 1
    assert dataset.report.notes == (
        "1 of 3 labels have no row in validation: c",
        "1 of 3 labels have no row in test: c",
    )


def test_the_digest_depends_on_rows_and_split_alone(read, jsonl, rows, tmp_path):
    whole = read(jsonl(rows))
    parts = tmp_path / "parts"
    parts.mkdir()
    for number, start in enumerate((0, 13, 20)):
        jsonl(rows[start : (13, 20, 30)[number]], f"parts/{number}.jsonl")
    assert read(f"{parts}/*.jsonl").digest == whole.digest
    assert read(jsonl(rows), seed=43).digest != whole.digest
    assert read(jsonl(rows), test=0.2).digest != whole.digest
    other = [{**rows[0], "label": "b"}, *rows[1:]]
    assert read(jsonl(other)).digest != whole.digest
    # The same bytes in other cells are other rows.
    moved = [{**rows[0], "text": "text number"}, {**rows[1], "text": " 0text number 1"}]
    assert read(jsonl([*moved, *rows[2:]])).digest != whole.digest


@pytest.mark.parametrize("name", ["validation", "test"])
def test_own_sources_are_used_whole_and_in_order(read, jsonl, rows, name):
    own = [{"text": f"own {i}", "label": "ab"[i % 2]} for i in range(5)]
    dataset = read(jsonl(rows), **{name: jsonl(own, "own.jsonl")})
    assert dataset.splits[name].to_pylist() == own
