"""Models without one list of blocks: they train whole, from their head on, and are resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.loop_cases import UNSTACKED, WORLDS, final, held, moved
from tests.helpers.loop_runs import Seen

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
    assert set(held(root, f"{name}/3")) - head <= {"albert.pooler.weight", "albert.pooler.bias"}
    assert head
    assert moved(held(root, f"{name}/3"), final(root, name)) - head, "the body, afterwards"
