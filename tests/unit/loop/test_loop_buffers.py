"""Running statistics: those of what trains move and are kept, those of what is frozen do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.training.loop_cases import ENDS, WORLDS, final
from tests.helpers.training.loop_runs import Seen, checkpoint

Of = Callable[..., Seen]
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def kept(root: Path, reference: str) -> dict[str, torch.Tensor]:
    file = checkpoint(root, reference) / "buffers.safetensors"
    return load_file(file) if file.is_file() else {}


def statistics(*layers: int) -> set[str]:
    norms = [f"bert.encoder.layer.{layer}.output.LayerNorm.norm" for layer in layers]
    return {f"{norm}.{name}" for norm in norms for name in STATISTICS}


@pytest.mark.parametrize(("world", "stage"), ENDS)
def test_only_those_of_blocks_that_train_move_and_are_kept(
    root: Path, of: Of, world: int, stage: int
) -> None:
    name = f"{world}-normed-{stage}"
    moved = {n for n in of(name).moved if n.rpartition(".")[2] in STATISTICS}
    assert moved == statistics(1, 2)
    assert kept(root, f"{name}/3").keys() == statistics(1, 2)
    assert kept(root, f"{world}-stage-{stage}/3") == {}, "BERT has none"


@pytest.mark.parametrize("name", ["normed-{stage}", "normed-phases", "ibert"])
@pytest.mark.parametrize(("world", "stage"), ENDS)
def test_all_ranks_have_the_same_and_a_resumed_run_too(
    of: Of, world: int, stage: int, name: str
) -> None:
    name = f"{world}-{name.format(stage=stage)}"
    digests = {of(n, rank).digest for n in (name, f"{name}-resumed") for rank in range(world)}
    assert len(digests) == 1
    assert of(f"{name}-resumed").metrics[-1] == of(name).metrics[-1]


@pytest.mark.parametrize("world", WORLDS)
def test_what_is_thawed_later_is_kept_from_then_on(root: Path, world: int) -> None:
    name = f"{world}-normed-phases"
    assert kept(root, f"{name}/3") == {}, "the head alone has no statistics"
    assert kept(root, f"{name}/6").keys() == statistics(2)
    assert kept(root, f"{name}/9").keys() == statistics(0, 1, 2)


@pytest.mark.parametrize("world", WORLDS)
def test_adapters_leave_the_statistics_of_frozen_weights_alone(
    root: Path, of: Of, world: int
) -> None:
    name = f"{world}-normed-lora"
    assert not statistics(0, 1, 2) & set(of(name).moved)
    assert kept(root, f"{name}/3") == {}


@pytest.mark.parametrize("world", WORLDS)
def test_a_step_that_is_left_out_leaves_no_trace(root: Path, of: Of, world: int) -> None:
    name = f"{world}-normed-skips"
    assert of(name).skipped
    values = final(root, name)
    assert all(values[buffer].isfinite().all() for buffer in statistics(1, 2))


@pytest.mark.parametrize("world", WORLDS)
def test_activations_that_are_computed_again_count_once(root: Path, world: int) -> None:
    again, once = (final(root, f"{world}-normed-{name}") for name in ("recomputes", "0"))
    for name in statistics(1, 2):
        torch.testing.assert_close(again[name], once[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("world", WORLDS)
def test_buffers_that_are_no_statistics_of_a_batch_norm_are_kept(
    root: Path, of: Of, world: int
) -> None:
    """I-BERT keeps the range of its activations, in a new tensor each time."""
    name = f"{world}-ibert"
    found = kept(root, f"{name}/6")
    assert {n for n in found if n.endswith(("x_min", "x_max"))}
    assert not [n for n in found if ".layer.0." in n or "embeddings" in n]
    assert {n for n in of(name).moved if n.endswith("x_max")} <= found.keys()
    values = final(root, name)
    assert all(torch.equal(values[n], value) for n, value in found.items())
