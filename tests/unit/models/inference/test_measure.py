"""Which examples share a pass of an evaluation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ftray.models.inference.measure import in_order


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
@pytest.mark.parametrize("rows", [1, 3, 8, 100])
def test_evaluation_sees_every_row_once(rows: int, workers: int) -> None:
    lengths = np.random.default_rng(0).integers(3, 64, rows)
    shares = [in_order(lengths, 8, rank, workers) for rank in range(workers)]
    seen = [row for share in shares for batch in share for row in batch.tolist()]
    assert sorted(seen) == list(range(rows))
    counts = [len(share) for share in shares]
    assert set(counts) == {math.ceil(math.ceil(rows / 8) / workers)}


def test_a_batch_has_as_many_tokens_as_it_may() -> None:
    batches = in_order(np.array([5, 1, 2, 9, 2]), 4, 0, 1, most=6)
    assert [batch.tolist() for batch in batches] == [[1, 2, 4], [0], [3]]
