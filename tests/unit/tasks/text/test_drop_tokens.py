"""Random deletion of tokens: what stays, how many go, and that it is the same every time."""

from __future__ import annotations

import numpy as np
import pytest

from ftray.tasks.text.tokens import drop_tokens

START, MIDDLE, END = 101, 102, 103
SPECIAL = frozenset({START, MIDDLE, END})


def row(words: int, seed: int = 0) -> np.ndarray:
    inner = np.random.default_rng(seed).integers(200, 900, words)
    return np.concatenate([[START], inner, [END]]).astype(np.int32)


def drop(ids: np.ndarray, chance: float, seed: int = 1, special: frozenset[int] = SPECIAL) -> list:
    stays = drop_tokens(ids, chance, special, np.random.default_rng(seed))
    assert stays.dtype == bool and stays.shape == ids.shape
    return ids[stays].tolist()


@pytest.mark.parametrize("chance", [0.1, 0.5, 0.9])
def test_about_that_share_goes_and_the_rest_keeps_its_order(chance: float) -> None:
    ids = np.concatenate([[START], np.arange(200, 4200), [END]])
    kept = drop(ids, chance)
    assert kept[1:-1] == sorted(kept[1:-1])
    assert len(kept) - 2 == pytest.approx(4000 * (1 - chance), abs=4 * (4000 * 0.25) ** 0.5)


@pytest.mark.parametrize("seed", range(20))
def test_both_ends_every_special_token_and_one_word_stay(seed: int) -> None:
    ids = np.array([START, 5, 6, MIDDLE, 7, 8, END])
    kept = drop(ids, 0.999, seed)
    assert (kept[0], kept[-1]) == (START, END)
    assert MIDDLE in kept
    assert len(kept) == 4


def test_the_word_that_stays_is_any_of_them() -> None:
    assert {drop(row(3), 0.999, seed)[1] for seed in range(60)} == set(row(3)[1:-1].tolist())


def test_the_ends_stay_also_where_they_are_no_special_tokens() -> None:
    kept = drop(np.arange(10, 40), 0.9, special=frozenset())
    assert (kept[0], kept[-1]) == (10, 39)


@pytest.mark.parametrize("ids", [[7], [START, END], [START, MIDDLE, END], [START, 9, END]])
def test_of_a_short_row_nothing_goes(ids: list[int]) -> None:
    assert drop(np.array(ids), 0.999) == ids


def test_it_is_a_function_of_the_generator_alone() -> None:
    ids = row(40)
    before = ids.copy()
    assert drop(ids, 0.3, seed=4) == drop(ids, 0.3, seed=4) != drop(ids, 0.3, seed=5)
    assert np.array_equal(ids, before), "the row itself is shared by all epochs"
