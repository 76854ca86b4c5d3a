"""A run that is cut in time ends as one that is not, whoever goes on with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.training.loop_cases import CASES, ENDS, STAGES, WORLDS, run
from tests.helpers.training.loop_runs import Seen, checkpoint, make_model

CUT = [
    *(f"{world}-stage-{stage}" for world, stage in CASES),
    *(f"{world}-{name}" for world in WORLDS for name in ("autocast", "bf16-2", "bf16-3")),
]


@pytest.mark.parametrize("whole", CUT)
def test_a_resumed_run_ends_as_an_uninterrupted_one_to_the_bit(
    root: Path, of: Callable[..., Seen], whole: str
) -> None:
    resumed = f"{whole}-resumed"
    assert of(resumed).losses == of(whole).losses[3:]
    assert of(resumed).rates == of(whole).rates[3:]
    assert of(resumed).metrics == of(whole).metrics[1:]
    assert of(resumed).digest == of(whole).digest
    for file in ("trainable.safetensors", "optimizer.safetensors"):
        one = load_file(checkpoint(root, f"{whole}/6") / file)
        two = load_file(checkpoint(root, f"{resumed}/6") / file)
        assert one.keys() == two.keys()
        assert [key for key in one if not torch.equal(one[key], two[key])] == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_of_two_workers_goes_on_with_one(of: Callable[..., Seen], stage: int) -> None:
    resumed = of(f"2-to-1-stage-{stage}")
    assert resumed.losses == pytest.approx(of(f"2-stage-{stage}").losses[3:], abs=1e-5)


def test_a_run_goes_on_under_another_stage(of: Callable[..., Seen]) -> None:
    assert of("2-stage-2-to-3").losses == pytest.approx(of("2-stage-2").losses[3:], abs=1e-5)


@pytest.mark.parametrize(("world", "stage"), ENDS)
def test_a_stopped_run_saves_first_and_goes_on_to_the_bit(
    of: Callable[..., Seen], world: int, stage: int
) -> None:
    for rank in range(world):
        assert "interrupted after step 2 of 6" in of(f"{world}-stops-{stage}", rank).error
    whole, resumed = of(f"{world}-stage-{stage}"), of(f"{world}-goes-on-{stage}")
    assert resumed.losses == whole.losses[2:]
    assert resumed.metrics == whole.metrics, "the mean loss of an epoch is that of all its rows"
    assert resumed.digest == whole.digest


def test_a_checkpoint_holds_what_trains_and_no_pickle(root: Path, of: Callable[..., Seen]) -> None:
    for stage in STAGES:
        folder = checkpoint(root, f"2-stage-{stage}/3")
        names = sorted(path.name for path in folder.iterdir())
        assert names == [
            "manifest.json", "optimizer.safetensors", "progress.json", "trainable.safetensors",
        ]  # fmt: skip
        values = load_file(folder / "trainable.safetensors")
        moments = load_file(folder / "optimizer.safetensors")
        assert sorted(values) == of(f"2-stage-{stage}").trainable
        assert sorted(moments) == sorted(
            f"{n}/{k}" for n in values for k in ("exp_avg", "exp_avg_sq", "updates")
        )
        shapes = dict(make_model(run("any")).named_parameters())
        assert all(value.shape == shapes[name].shape for name, value in values.items())
        assert all(moments[f"{name}/exp_avg"].shape == shapes[name].shape for name in values)


@pytest.mark.parametrize("stage", STAGES)
def test_a_checkpoint_is_the_same_whatever_the_stage_and_the_workers(
    root: Path, stage: int
) -> None:
    for file in ("trainable.safetensors", "optimizer.safetensors"):
        expected = load_file(checkpoint(root, "1-stage-0/3") / file)
        found = load_file(checkpoint(root, f"2-stage-{stage}/3") / file)
        for name in expected:
            if "key.bias" not in name:
                assert torch.allclose(found[name], expected[name], atol=1e-4), name
