"""Models whose blocks are not one list of layers: they train whole, from their head on, and are
resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.training.loop_cases import TWO_STACKS, UNSTACKED, WORLDS, final, held, moved
from tests.helpers.training.loop_runs import Seen

Of = Callable[..., Seen]
cases = pytest.mark.parametrize("family", UNSTACKED)
worlds = pytest.mark.parametrize("world", WORLDS)


@cases
@worlds
def test_all_of_it_trains_and_resumes(of: Of, family: str, world: int) -> None:
    """Also where a rank has no row of a batch."""
    name = f"{world}-{family}"
    digests = {of(n, rank).digest for n in (name, f"{name}-resumed") for rank in range(world)}
    assert len(digests) == 1
    assert not of(name).error
    assert len(of(name).moved) > len(of(name).trainable) // 2


@cases
@worlds
def test_the_head_trains_before_the_rest(root: Path, of: Of, family: str, world: int) -> None:
    name = f"{world}-{family}-lp-ft"
    assert of(name).phases[1:] == [3]
    body = {"albert": "albert.", "bart": "model.", "t5": "transformer."}[family]
    head = {n for n in held(root, f"{name}/3") if not n.startswith(body)}
    last = ("albert.pooler.", "transformer.decoder.final_layer_norm.")
    assert all(n.startswith(last) for n in set(held(root, f"{name}/3")) - head)
    assert head
    assert moved(held(root, f"{name}/3"), final(root, name)) - head, "the body, afterwards"


@pytest.mark.parametrize("family", TWO_STACKS)
@worlds
def test_the_top_two_blocks_of_a_decoder_train_and_resume(of: Of, family: str, world: int) -> None:
    name = f"{world}-{family}-two"
    assert not of(name).error
    assert set(of(name).moved) == set(of(name).trainable)
    assert any(".decoder." in name for name in of(name).moved)
    assert not any(".encoder." in name for name in of(name).moved)
    digests = {of(n, rank).digest for n in (name, f"{name}-resumed") for rank in range(world)}
    assert len(digests) == 1
