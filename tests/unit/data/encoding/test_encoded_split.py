"""The examples of a split as they lie in shards: every kind of feature, read one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ftray.data.encoding.encoded import EncodedSplit
from ftray.data.encoding.shards import arrow_batch
from ftray.tasks.features import Examples, Feature

FEATURES = {
    "ids": Feature("int32", None),
    "types": Feature("int8", None, counts=False),
    "pixels": Feature("uint8", (3, 2, 2)),
    "label": Feature("int64", (), "target"),
    "scores": Feature("float32", (2,), "target"),
    "context": Feature("uint8", None, "host"),
}
COUNT = 7


def examples() -> list[dict[str, Any]]:
    """Two rows of several windows, and rows of one."""
    draw = np.random.default_rng(0)
    return [
        {
            "ids": draw.integers(0, 100, number + 1).astype(np.int32),
            "pixels": draw.integers(0, 255, (3, 2, 2)).astype(np.uint8),
            "label": np.int64(number % 3),
            "scores": draw.random(2).astype(np.float32),
            "context": np.frombuffer(b"text" * number, np.uint8),
        }
        for number in range(COUNT)
    ]


ROWS = [0, 0, 1, 3, 4, 4, 6]
"""The row of each example; rows 2 and 5 have none."""


@pytest.fixture
def split() -> EncodedSplit:
    """Of two shards, of four rows and of three."""
    shards = []
    for first, chosen in ((0, range(4)), (4, range(4, COUNT))):
        part = [examples()[place] for place in chosen]
        columns = {name: [example[name] for example in part] for name in part[0]}
        rows = [ROWS[place] - first for place in chosen]
        batch = arrow_batch(Examples(columns, rows, [], {}), FEATURES, first)
        shards.append(pa.Table.from_batches([batch]))
    return EncodedSplit(shards, FEATURES)


def test_every_example_is_what_was_written(split: EncodedSplit) -> None:
    assert len(split) == COUNT and split.rows.tolist() == ROWS
    for found, expected in zip(split.examples(range(COUNT)), examples(), strict=True):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert np.array_equal(found[name], value), name
            assert np.asarray(found[name]).dtype == FEATURES[name].dtype
            assert np.asarray(found[name]).shape == value.shape


def test_examples_cannot_be_written_to(split: EncodedSplit) -> None:
    for name in ("ids", "pixels"):
        with pytest.raises(ValueError, match="read-only"):
            split.example(0)[name][...] = 0


def test_lengths_are_those_of_the_inputs_that_differ_in_length(split: EncodedSplit) -> None:
    assert split.lengths.tolist() == [number + 1 for number in range(COUNT)]


@pytest.mark.parametrize("name", ["label", "scores", "pixels"])
def test_a_feature_of_fixed_shape_is_read_of_all_examples_at_once(
    split: EncodedSplit, name: str
) -> None:
    found, expected = split.column(name), np.array([example[name] for example in examples()])
    assert np.array_equal(found, expected) and found.dtype == FEATURES[name].dtype
    with pytest.raises(AssertionError, match="differs in length"):
        split.column("ids")


@pytest.mark.parametrize("place", [-1, COUNT])
def test_there_are_no_examples_beyond_the_last(split: EncodedSplit, place: int) -> None:
    with pytest.raises(IndexError):
        split.example(place)


def test_examples_without_a_length_cost_one_each() -> None:
    columns = {"pixels": [np.zeros((3, 2, 2), np.uint8)] * 3}
    batch = arrow_batch(Examples(columns, [0, 1, 2], [], {}), FEATURES, 0)
    found = EncodedSplit([pa.Table.from_batches([batch])], FEATURES)
    assert found.lengths.tolist() == [1, 1, 1]
