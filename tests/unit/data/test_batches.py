"""Batches: every row once an epoch, the same wherever and however often they are asked for."""

from __future__ import annotations

import numpy as np
import pytest

from ftray.data.batches import BatchPlan, balancing_weights

SHAPES = [(1, 1, 1), (1, 8, 4), (5, 8, 3), (8, 8, 8), (100, 8, 3), (257, 16, 16), (1000, 7, 2)]
WORKERS = (1, 2, 3, 4)


def plan(rows: int, batch: int, micro: int, seed: int = 1) -> BatchPlan:
    lengths = np.random.default_rng(rows).integers(3, 64, rows)
    return BatchPlan(lengths, batch, micro, seed)


@pytest.fixture(params=SHAPES, ids=lambda shape: "-".join(map(str, shape)))
def shape(request: pytest.FixtureRequest) -> tuple[int, int, int]:
    return request.param


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_every_row_comes_once_an_epoch(shape: tuple[int, int, int], epoch: int) -> None:
    rows, batch, _ = shape
    batches = plan(*shape).batches(epoch)
    assert sorted(np.concatenate(batches)) == list(range(rows))
    assert len(batches) == plan(*shape).steps_per_epoch
    assert sorted({len(b) for b in batches} - {batch}) in ([], [rows % batch])
    assert sum(len(b) != batch for b in batches) <= 1


def test_batches_depend_on_seed_and_epoch_alone(shape: tuple[int, int, int]) -> None:
    asked = plan(*shape)
    asked.batches(3)
    np.random.seed(5)
    again = plan(*shape).batches(1)
    assert all(np.array_equal(a, b) for a, b in zip(asked.batches(1), again, strict=True))


def test_epochs_and_seeds_differ() -> None:
    orders = [
        np.concatenate(plan(500, 8, 4, seed).batches(epoch)).tolist()
        for seed in (1, 2)
        for epoch in (0, 1)
    ]
    assert len({tuple(order) for order in orders}) == 4


def test_seed_and_epoch_do_not_stand_in_for_each_other() -> None:
    first = np.concatenate(plan(500, 8, 4, seed=1).batches(2))
    second = np.concatenate(plan(500, 8, 4, seed=2).batches(1))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("workers", WORKERS)
def test_the_chunks_of_all_ranks_are_the_same_for_any_number_of_workers(
    shape: tuple[int, int, int], workers: int
) -> None:
    asked = plan(*shape)
    for batch in asked.batches(0):
        alone = dict(_filled(asked.chunks(batch, 0, 1)))
        shared = [
            item for rank in range(workers) for item in _filled(asked.chunks(batch, rank, workers))
        ]
        assert len(shared) == len(alone)
        assert dict(shared) == alone
        assert [row for _, rows in sorted(shared) for row in rows] == batch.tolist()


def _filled(chunks: list[tuple[int, np.ndarray]]) -> list[tuple[int, tuple[int, ...]]]:
    return [(number, tuple(rows.tolist())) for number, rows in chunks if len(rows)]


@pytest.mark.parametrize("workers", WORKERS)
def test_every_rank_makes_equally_many_forward_passes(
    shape: tuple[int, int, int], workers: int
) -> None:
    asked = plan(*shape)
    counts = {
        len(asked.chunks(batch, rank, workers))
        for batch in asked.batches(0)
        for rank in range(workers)
    }
    assert counts == {asked.accumulation_steps(workers)}


@pytest.mark.parametrize("workers", WORKERS)
def test_no_chunk_is_above_the_micro_batch(shape: tuple[int, int, int], workers: int) -> None:
    asked = plan(*shape)
    for batch in asked.batches(0):
        for rank in range(workers):
            for _, rows in asked.chunks(batch, rank, workers):
                assert len(rows) <= asked.micro_batch_size


@pytest.mark.parametrize(
    ("batch", "micro", "workers", "steps"),
    [(32, 8, 1, 4), (32, 8, 2, 2), (32, 8, 3, 2), (32, 32, 1, 1), (33, 8, 2, 3), (8, 8, 4, 1)],
)
def test_accumulation_covers_the_batch(batch: int, micro: int, workers: int, steps: int) -> None:
    assert plan(100, batch, micro).accumulation_steps(workers) == steps
    assert steps * micro * workers >= batch


def _padded(lengths: np.ndarray, batches: list[np.ndarray]) -> int:
    return sum(len(rows) * lengths[rows].max() for rows in batches)


def test_bucketing_wastes_a_tenth_of_what_random_order_does() -> None:
    asked = plan(5000, 32, 32)
    lengths = asked.lengths
    order = np.random.default_rng(0).permutation(5000)
    random = [order[start : start + 32] for start in range(0, 5000, 32)]
    waste = _padded(lengths, asked.batches(0)) - lengths.sum()
    assert waste < 0.1 * (_padded(lengths, random) - lengths.sum())


def test_batches_of_all_lengths_come_throughout_the_epoch() -> None:
    asked = plan(5000, 32, 32)
    means = [asked.lengths[rows].mean() for rows in asked.batches(0)]
    halves = np.mean(means[: len(means) // 2]), np.mean(means[len(means) // 2 :])
    assert abs(halves[0] - halves[1]) < 5, "short rows must not come first"
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.25


SKEWED = np.array([0] * 900 + [1] * 90 + [3] * 10)


def test_weights_make_every_label_weigh_the_same() -> None:
    """As scikit-learn's class_weight="balanced" does."""
    weights = balancing_weights(SKEWED)
    assert weights.shape == SKEWED.shape
    sums = np.bincount(SKEWED, weights)[[0, 1, 3]]
    assert sums.tolist() == pytest.approx([1000 / 3] * 3)
    assert weights[0] == pytest.approx(1000 / (3 * 900))


def test_even_labels_weigh_one() -> None:
    assert balancing_weights(np.array([1, 0, 0, 1])).tolist() == [1, 1, 1, 1]


def sampled(seed: int = 1) -> BatchPlan:
    lengths = np.random.default_rng(0).integers(3, 64, len(SKEWED))
    return BatchPlan(lengths, 16, 4, seed, chances=balancing_weights(SKEWED))


def test_sampling_draws_as_many_rows_of_each_label_as_of_the_others() -> None:
    drawn = np.concatenate([rows for epoch in range(20) for rows in sampled().batches(epoch)])
    assert len(drawn) == 20 * len(SKEWED)
    shares = np.bincount(SKEWED[drawn])[[0, 1, 3]] / len(drawn)
    # Four standard errors of a share of 20,000 draws.
    assert shares == pytest.approx([1 / 3] * 3, abs=4 * (2 / 9 / 20_000) ** 0.5)
    assert set(drawn[SKEWED[drawn] == 3]) == set(np.flatnonzero(SKEWED == 3)), "any row of a label"


def test_sampling_depends_on_seed_and_epoch_alone() -> None:
    asked = sampled()
    first = [rows.tolist() for rows in asked.batches(2)]
    asked.batches(0)
    assert [rows.tolist() for rows in sampled().batches(2)] == first
    assert [rows.tolist() for rows in sampled().batches(1)] != first
    assert [rows.tolist() for rows in sampled(seed=2).batches(2)] != first
    assert {len(rows) for rows in first} == {16, len(SKEWED) % 16}


@pytest.mark.parametrize("steps", [1, 3, 7, 20])
def test_epochs_of_a_number_of_steps_go_through_the_passes_one_after_another(steps: int) -> None:
    lengths = np.random.default_rng(1).integers(1, 50, 100)
    passes = BatchPlan(lengths, 16, 4, 3)
    expected = [batch.tolist() for number in range(10) for batch in passes.batches(number)]
    own = BatchPlan(lengths, 16, 4, 3, steps=steps)
    assert own.steps_per_epoch == steps
    for epoch in (0, 1, 2, 1):
        found = [batch.tolist() for batch in own.batches(epoch)]
        assert found == expected[epoch * steps : (epoch + 1) * steps], "whichever comes first"
