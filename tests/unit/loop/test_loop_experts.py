"""Layers that only some rows go through: a rank may have no gradient of them, or no rank may."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.training.loop_cases import WORLDS, final
from tests.helpers.training.loop_runs import Seen, checkpoint

Of = Callable[..., Seen]
IDLE = {"experts.layers.5.weight", "experts.layers.5.bias"}


def test_two_processes_learn_what_one_learns(root: Path) -> None:
    one, two = final(root, "1-experts"), final(root, "2-experts")
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("world", WORLDS)
def test_what_no_row_goes_through_has_a_zero_gradient(root: Path, of: Of, world: int) -> None:
    """As at the sharding stages, whatever the number of ranks: it is decayed, and no more."""
    name = f"{world}-experts"
    assert "experts.layers.0.weight" in of(name).moved
    kept = load_file(checkpoint(root, f"{name}/6") / "optimizer.safetensors")
    assert {int(count) for key, count in kept.items() if key.endswith("/updates")} == {6}
    assert all(not kept[f"{idle}/exp_avg"].any() for idle in IDLE)
    assert kept["experts.layers.0.weight/exp_avg"].any()


@pytest.mark.parametrize("world", WORLDS)
def test_a_resumed_run_is_the_same(of: Of, world: int) -> None:
    name = f"{world}-experts"
    digests = {of(n, rank).digest for n in (name, f"{name}-resumed") for rank in range(world)}
    assert len(digests) == 1
