"""Training from kept states, without the blocks that gave them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.helpers.training.loop_cases import ENDS, WORLDS, held
from tests.helpers.training.loop_runs import Seen


@pytest.mark.parametrize(("world", "stage"), ENDS)
def test_the_loss_curve_is_that_without_a_cache(
    root: Path, of: Callable[..., Seen], world: int, stage: int
) -> None:
    """Dropout included. States of rows that were computed one by one, so within rounding."""
    cached, whole = of(f"{world}-cached-{stage}"), of(f"{world}-stage-{stage}")
    assert cached.losses == pytest.approx(whole.losses, abs=1e-6)
    for mine, theirs in zip(cached.metrics, whole.metrics, strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], abs=1e-6)
    assert cached.trainable == whole.trainable == cached.moved
    one, two = held(root, f"{world}-cached-{stage}/6"), held(root, f"{world}-stage-{stage}/6")
    assert one.keys() == two.keys()
    for name in one:
        assert torch.allclose(one[name], two[name], atol=1e-4) or "key.bias" in name, name


@pytest.mark.parametrize(("world", "stage"), ENDS)
def test_a_resumed_run_ends_the_same(of: Callable[..., Seen], world: int, stage: int) -> None:
    whole, resumed = of(f"{world}-cached-{stage}"), of(f"{world}-cached-{stage}-resumed")
    assert resumed.losses == whole.losses[3:]
    assert resumed.digest == whole.digest


@pytest.mark.parametrize(("world", "stage"), ENDS)
def test_half_the_bits_change_little(of: Callable[..., Seen], world: int, stage: int) -> None:
    low, whole = of(f"{world}-cached-low-{stage}"), of(f"{world}-stage-{stage}")
    assert low.losses != whole.losses
    assert low.losses == pytest.approx(whole.losses, abs=2e-2)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(("cached", "without"), [("lora", "lora-0"), ("rising", "rising")])
def test_adapters_and_phases_start_from_what_is_always_frozen(
    of: Callable[..., Seen], world: int, cached: str, without: str
) -> None:
    found, expected = of(f"{world}-cached-{cached}"), of(f"{world}-{without}")
    assert found.losses == pytest.approx(expected.losses, abs=1e-6)
    assert found.phases == expected.phases
    assert found.trainable == expected.trainable


@pytest.mark.parametrize("world", WORLDS)
def test_a_head_needs_one_token_of_a_row(of: Callable[..., Seen], world: int) -> None:
    cached, whole = of(f"{world}-cached-head"), of(f"{world}-unfreeze-0")
    assert cached.losses == pytest.approx(whole.losses, abs=1e-6)
    assert cached.metrics[-1]["loss"] == pytest.approx(whole.metrics[-1]["loss"], abs=1e-6)
