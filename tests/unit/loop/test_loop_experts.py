"""Layers that only some rows go through: a rank may have no gradient of them, or no rank may."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.loop_cases import WORLDS, final
from tests.helpers.loop_runs import Seen, checkpoint

Of = Callable[..., Seen]
IDLE = {"experts.layers.5.weight", "experts.layers.5.bias"}


def test_two_processes_learn_what_one_learns(root: Path) -> None:
    one, two = final(root, "1-experts"), final(root, "2-experts")
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("world", WORLDS)
def test_what_no_row_goes_through_stays_and_has_no_moments(root: Path, of: Of, world: int) -> None:
    name = f"{world}-experts"
    assert not IDLE & set(of(name).moved)
    assert "experts.layers.0.weight" in of(name).moved
    kept = load_file(checkpoint(root, f"{name}/6") / "optimizer.safetensors")
    updates = {n: int(kept[f"{n}/updates"]) for n in final(root, name) if f"{n}/updates" in kept}
    assert all(updates[n] == 0 and f"{n}/exp_avg" not in kept for n in IDLE)
    experts = {count for n, count in updates.items() if "experts" in n} - {0}
    assert min(experts) < 6, "a step in which no row went through an expert"
    assert updates["classifier.weight"] == 6


@pytest.mark.parametrize("world", WORLDS)
def test_a_resumed_run_is_the_same(of: Of, world: int) -> None:
    name = f"{world}-experts"
    digests = {of(n, rank).digest for n in (name, f"{name}-resumed") for rank in range(world)}
    assert len(digests) == 1
