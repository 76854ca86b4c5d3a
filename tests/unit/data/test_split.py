"""The stratified split: exact, seeded, and indifferent to how the rows are stored."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from ftray.data.cleaning.clean import row_digests
from ftray.data.dataset import content_digest
from ftray.data.split import stratify as split_by_codes
from ftray.tasks.schema import Scale, Schema


def stratify(targets, shares, seed):
    """Split by labels in place of their codes."""
    names = sorted(set(targets))
    return split_by_codes(np.array([names.index(label) for label in targets]), shares, seed)


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


@pytest.mark.parametrize("rows, measured", [(5, 26), (4, 20), (3, 16)])
def test_with_few_rows_a_label_the_splits_measure_different_labels(rows, measured):
    targets = [chr(97 + i % 26) for i in range(26 * rows)]
    seen = Counter()
    for seed in range(20):
        splits = stratify(targets, {"validation": 0.1, "test": 0.1}, seed)
        held_out = [{targets[i] for i in splits[name]} for name in ("validation", "test")]
        assert len(held_out[0] | held_out[1]) == measured
        assert [len(splits[name]) for name in ("validation", "test")] == [round(2.6 * rows)] * 2
        seen.update(held_out[1])
    assert len(seen) == 26, "every label is measured for some seed"
    assert max(seen.values()) < 20, "and no label is for every seed"


def test_labels_with_two_rows_are_measured_beside_those_with_more():
    targets = [f"five {i % 10}" for i in range(50)] + [f"two {i % 10}" for i in range(20)]
    splits = stratify(targets, {"validation": 0.1, "test": 0.1}, seed=1)
    measured = {targets[i] for name in ("validation", "test") for i in splits[name]}
    assert len(measured) == len(splits["validation"]) + len(splits["test"]) == 14


def test_which_labels_are_measured_does_not_depend_on_the_order_of_the_rows():
    targets = [chr(97 + i % 26) for i in range(130)]
    shares = {"validation": 0.1, "test": 0.1}
    for name in shares:
        one = {targets[i] for i in stratify(targets, shares, 3)[name]}
        other = {targets[::-1][i] for i in stratify(targets[::-1], shares, 3)[name]}
        assert one == other


def test_labels_with_few_rows_stay_in_train():
    targets = ["a"] * 50 + ["b"] * 50 + ["rare"] + ["two"] * 2
    splits = stratify(targets, {"validation": 0.4, "test": 0.4}, seed=3)
    counts = Counter(targets[i] for i in splits["train"])
    assert counts["rare"] == 1 and counts["two"] >= 1


def test_a_rare_label_is_reported(read, jsonl, rows):
    dataset = read(jsonl([*rows, {"text": "rare", "label": "c"}]))
    assert dataset.schema.labels == ("a", "b", "c")
    assert dataset.report.splits["train"]["c"] == 1
    assert dataset.report.notes == (
        "1 of 3 labels have no row in validation: c",
        "1 of 3 labels have no row in test: c",
    )


def test_a_tag_that_no_row_has_is_missed_nowhere(read, jsonl):
    """I-PER is a label beside B-PER, though all names have one word."""
    names = ("Ann", "Bob", "Eva", "Ida", "Joe", "Kim", "Lea", "Max", "Pia", "Tom")
    rows = [{"tokens": [name, "sings"], "tags": ["B-PER", "O"]} for name in names]
    dataset = read(jsonl(rows), task="token-classification", validation=0.2, test=0.2)
    assert dataset.schema.labels == ("B-PER", "I-PER", "O")
    assert not [note for note in dataset.report.notes if "have no row" in note]


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
    assert dataset.splits[name].table().to_pylist() == own


@pytest.mark.parametrize(
    "values",
    [
        [[[1.0], [2.0, 3.0]], [[1.0, 2.0], [3.0]], [[1.0], [2.0, 4.0]]],
        [[b"a", b"bc"], [b"ab", b"c"], [b"a", b"bd"]],
        [["a", "bc"], ["ab", "c"], ["a", "bd"]],
    ],
    ids=["numbers", "bytes", "texts"],
)
def test_the_digest_depends_on_values_of_any_kind_and_on_the_schema(values):
    def found(column, schema=None):
        digests = np.array(row_digests({"x": column}), np.uint64)
        return content_digest({"train": digests}, ["x"], schema or Schema())

    assert len({*map(found, values)}) == len(values)
    scale = Scale.of(np.array([[1.0], [2.0]]))
    schemas = (Schema(), Schema(labels=("a",)), Schema(scale=scale))
    assert len({found(values[0], schema) for schema in schemas}) == len(schemas)
    assert (
        row_digests({"x": ["a", "ab"], "y": ["bc", "c"]})[0]
        != row_digests({"x": ["ab"], "y": ["c"]})[0]
    ), "a value that moves to another cell"
