"""Features of examples: how batches are stacked and padded, what an example costs, and what tells
two of them apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ftray.tasks.features import Feature, cost, input_digest, mask_of, stacked

FEATURES = {
    "ids": Feature("int32", None),
    "types": Feature("int8", None, counts=False),
    "pixels": Feature("uint8", (2, 3)),
    "label": Feature("int64", (), "target"),
    "scores": Feature("float32", (2,), "target"),
    "place": Feature("int32", None, "host"),
}


def test_rows_of_other_lengths_are_padded_to_the_longest() -> None:
    rows = [{"ids": np.array([5, 6, 7], np.int32)}, {"ids": [8]}]
    (ids,) = stacked(rows, FEATURES, {"ids": 9}).inputs.values()
    assert ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert ids.dtype == torch.int64
    mask = mask_of(len(row["ids"]) for row in rows)
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]] and mask.dtype == torch.int64


def test_rows_of_one_length_are_copied_without_padding() -> None:
    own = np.array([5, 6], np.int64)
    rows = [{"ids": own}, {"ids": [8, 7]}]
    (ids,) = stacked(rows, FEATURES, {"ids": 9}).inputs.values()
    assert ids.tolist() == [[5, 6], [8, 7]] and ids.dtype == torch.int64
    own[0] = 1
    assert ids[0, 0] == 5, "the batch is not the example itself"
    mask = mask_of([2, 2])
    assert mask.tolist() == [[1, 1], [1, 1]] and mask.dtype == torch.int64


def test_inputs_targets_and_host_are_kept_apart() -> None:
    example = {
        "types": [0, 1],
        "pixels": np.arange(6, dtype=np.uint8),
        "label": np.int64(2),
        "scores": [0.5, 1.5],
        "place": [1, 2, 3],
    }
    batch = stacked([example, example], FEATURES, {})
    assert batch.inputs.keys() == {"types", "pixels"}, "what no example has is left out"
    assert batch.targets.keys() == {"label", "scores"}
    assert list(batch.host) == [example, example]
    assert batch.inputs["pixels"].tolist() == [[[0, 1, 2], [3, 4, 5]]] * 2
    assert batch.inputs["pixels"].dtype == torch.uint8
    assert batch.targets["label"].tolist() == [2, 2]
    assert batch.targets["scores"].dtype == torch.float32
    moved = batch.to(torch.device("meta"))
    assert moved.inputs["pixels"].is_meta and moved.targets["label"].is_meta
    assert moved.host is batch.host


@pytest.mark.parametrize(
    ("example", "expected"),
    [
        ({"ids": [1, 2, 3], "types": [0, 0, 1], "label": 1, "place": [1]}, 3),
        ({"pixels": np.zeros((2, 3), np.uint8), "label": 1}, 1),
        ({"types": [0, 0, 1]}, 1),
    ],
)
def test_what_differs_in_length_and_is_read_by_the_model_costs(example, expected) -> None:
    assert cost(example, FEATURES) == expected


def test_a_digest_tells_inputs_apart_and_reads_nothing_else() -> None:
    one = {"ids": [1, 2, 3], "types": [0, 0, 1], "label": 1, "place": [4]}
    alike = {"types": np.array([0, 0, 1]), "ids": np.array([1, 2, 3], np.int32), "label": 2}
    assert input_digest(one, FEATURES) == input_digest(alike, FEATURES)
    for other in ({"ids": [1, 2, 4]}, {"types": [0, 1, 1]}, {"ids": [1, 2]}):
        assert input_digest({**one, **other}, FEATURES) != input_digest(one, FEATURES)
    assert len(input_digest(one, FEATURES)) == 16
