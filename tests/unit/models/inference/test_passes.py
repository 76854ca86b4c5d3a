"""Which rows share a forward pass."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Sequence

import pytest

from ftray.models.inference.passes import PassCost, measure_cost, plan


def tokens(passes: Sequence[Sequence[int]], lengths: Sequence[int], cost: float) -> float:
    return sum(cost + len(rows) * max(lengths[row] for row in rows) for rows in passes)


@pytest.mark.parametrize("seed", range(30))
def test_no_other_cut_of_the_sorted_rows_costs_less(seed: int) -> None:
    rng = random.Random(seed)
    lengths = [rng.randint(1, 64) for _ in range(rng.randint(1, 9))]
    most, cost = rng.randint(1, 9), rng.choice([0.0, 5.0, 40.0, 1e9])
    found = plan(lengths, most, PassCost(0.0, cost))
    assert sorted(itertools.chain(*found)) == list(range(len(lengths)))
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    least = min(
        tokens(cut, lengths, cost)
        for count in range(len(lengths))
        for at in itertools.combinations(range(1, len(lengths)), count)
        for cut in [[order[a:b] for a, b in itertools.pairwise([0, *at, len(lengths)])]]
        if max(map(len, cut)) <= most
    )
    assert max(map(len, found)) <= most
    assert tokens(found, lengths, cost) == pytest.approx(least)


def test_unless_a_cost_was_measured_there_are_as_few_passes_as_can_be() -> None:
    assert list(map(len, plan([1, 2, 60, 3, 61], 5, PassCost()))) == [5]
    assert plan([1, 2, 60, 3, 61], 3, PassCost()) == [[0, 1, 3], [2, 4]]
    assert plan([], 3, PassCost()) == []


def test_what_a_pass_costs_is_told_from_a_short_row_and_a_long_one() -> None:
    rows, costs = ([1] * 4, [1] * 64), (4, 64)
    found = measure_cost(lambda ids: time.sleep(0.02 + 0.001 * len(ids)), rows, costs)
    assert 0.015 < found.seconds < 0.04
    assert 12 < found.tokens < 40
    # A device on which short rows and long ones take the same time.
    same = measure_cost(lambda ids: time.sleep(0.01 - 1e-5 * len(ids)), rows, costs)
    assert same == PassCost()


def test_rows_that_need_no_padding_share_passes_of_which_little_is_the_fixed_cost() -> None:
    cost = PassCost(tokens=100 / 16, packs=True)
    assert plan([30, 40, 50, 20], 32, cost) == [[0, 1, 2, 3]]  # 140 tokens: nearer to one pass
    assert plan([30, 40, 50, 40], 32, cost) == [[0, 1], [2, 3]]
    assert plan([900, 5, 5], 32, cost) == [[0], [1, 2]]
    assert plan([5, 900, 5], 32, cost) == [[0], [1], [2]]
    assert plan([10] * 8, 3, cost) == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert plan([10] * 8, 8, PassCost(packs=True)) == [[*range(8)]]
    assert plan([], 3, cost) == []


@pytest.mark.parametrize("seed", range(20))
def test_every_row_is_in_one_pass_without_padding(seed: int) -> None:
    rng = random.Random(seed)
    lengths = [rng.randint(1, 90) for _ in range(rng.randint(1, 40))]
    most = rng.randint(1, 40)
    found = plan(lengths, most, PassCost(tokens=rng.randint(0, 30), packs=True))
    assert list(itertools.chain(*found)) == list(range(len(lengths)))
    assert max(map(len, found)) <= most
