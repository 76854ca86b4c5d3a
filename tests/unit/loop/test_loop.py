"""The training loop on real DeepSpeed over gloo, without Ray: one process and two, ZeRO 0 to 3.

A run is the same run however it is cut over workers and ZeRO stages.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.helpers.training.loop_cases import (
    CASES,
    ENDS,
    OFFLOADED,
    STAGES,
    TRAIN,
    WORLDS,
    final,
    run,
)
from tests.helpers.training.loop_runs import Seen, make_model


def test_the_loss_falls(of: Callable[..., Seen]) -> None:
    found = of("1-stage-0")
    assert len(found.losses) == 6
    assert found.metrics[1]["train_loss"] < found.metrics[0]["train_loss"]
    assert found.losses[0] == pytest.approx(math.log(3), abs=0.1)


def test_two_workers_learn_as_one_does_to_the_bit(root: Path, of: Callable[..., Seen]) -> None:
    """With one chunk a worker the very same numbers are added up, in whichever order."""
    assert of("2-two-chunks").losses == of("1-two-chunks").losses
    one, two = final(root, "1-two-chunks"), final(root, "2-two-chunks")
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("name", "together"),
    [
        ("2-apart", "2-stage-0"),
        ("2-experts-apart", "2-experts"),
        ("2-skips-apart", "2-skips-0"),
        ("2-phases-apart", "2-phases-0"),
    ],
)
def test_workers_of_one_machine_learn_as_those_of_two_to_the_bit(
    of: Callable[..., Seen], name: str, together: str
) -> None:
    """Workers of one machine share the weights, and each updates a part of them."""
    one, two = of(together), of(name)
    assert two.digest == one.digest
    assert two.losses == one.losses[-len(two.losses) :]
    assert two.skipped == one.skipped


@pytest.mark.parametrize("stage", STAGES)
def test_two_workers_learn_as_one_does(of: Callable[..., Seen], stage: int) -> None:
    """Four chunks are added up in another order: within rounding."""
    one, two = of("1-stage-0"), of(f"2-stage-{stage}")
    assert two.losses == pytest.approx(one.losses, abs=1e-5)
    assert two.rates == one.rates
    for mine, theirs in zip(one.metrics, two.metrics, strict=True):
        assert mine.keys() == theirs.keys()
        assert mine["accuracy"] == theirs["accuracy"]
        assert mine["loss"] == pytest.approx(theirs["loss"], abs=1e-5)


@pytest.mark.parametrize(
    ("name", "world"),
    [
        *((f"{world}-stage-{stage}", world) for world, stage in CASES),
        *((f"{world}-embeddings-0", world) for world in WORLDS),
    ],
)
def test_each_phase_of_a_step_is_timed(of: Callable[..., Seen], name: str, world: int) -> None:
    reduces = {"reduce"} if world > 1 or "embeddings" in name else set()
    for spent in of(name).timed:
        whole = spent.pop("step")
        assert spent.keys() == {"data", "forward", "backward", "update", "waiting"} | reduces
        assert min(spent[phase] for phase in ("forward", "backward", "update")) > 0
        assert sum(spent.values()) < whole + 1e-5, "no moment counts twice"


@pytest.mark.parametrize(("world", "stage"), CASES[2:])
def test_every_stage_learns_as_stage_0_does(
    of: Callable[..., Seen], world: int, stage: int
) -> None:
    plain, sharded = of(f"{world}-stage-0"), of(f"{world}-stage-{stage}")
    assert sharded.losses == pytest.approx(plain.losses, abs=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_ranks_agree_on_everything(of: Callable[..., Seen], stage: int) -> None:
    first, second = of(f"2-stage-{stage}", 0), of(f"2-stage-{stage}", 1)
    assert replace(first, timed=[]) == replace(second, timed=[])
    assert len(first.metrics) == TRAIN["epochs"]


DEPTHS = [f"{world}-unfreeze-{depth}" for world in WORLDS for depth in (0, "all")]


@pytest.mark.parametrize("name", [*(f"{world}-stage-{stage}" for world, stage in CASES), *DEPTHS])
def test_what_is_frozen_stays_bit_identical(of: Callable[..., Seen], name: str) -> None:
    found, name = of(name), name[2:]
    assert found.moved == found.trainable
    base = {parameter for parameter, _ in make_model(run("any")).named_parameters()}
    frozen = base - set(found.trainable)
    if name == "unfreeze-all":
        assert not frozen
    else:
        assert any("embeddings" in parameter for parameter in frozen)
        assert "bert.encoder.layer.0.attention.self.query.weight" in frozen
    assert ("bert.encoder.layer.2.output.dense.weight" in frozen) == (name == "unfreeze-0")


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(
    ("name", "expected"), [("stage-0", [1, 2]), ("unfreeze-0", []), ("unfreeze-all", [0, 1, 2])]
)
def test_dropout_is_on_where_the_model_trains_and_off_below(
    of: Callable[..., Seen], world: int, name: str, expected: list[int]
) -> None:
    # BERT's attention asks its dropout for the rate alone and goes by its own mode.
    dropping = [n for n in of(f"{world}-{name}").dropping if not n.endswith("self.dropout")]
    blocks = {int(n.split(".")[3]) for n in dropping if ".layer." in n}
    assert sorted(blocks) == expected
    assert "dropout" in dropping, "that of the head"
    assert ("bert.embeddings.dropout" in dropping) == (name == "unfreeze-all")


@pytest.mark.parametrize(("world", "stage"), ENDS)
def test_activations_computed_again_are_the_same(
    of: Callable[..., Seen], world: int, stage: int
) -> None:
    """Dropout included, and with frozen blocks below."""
    again, kept = of(f"{world}-recomputes-{stage}"), of(f"{world}-stage-{stage}")
    assert again.losses == pytest.approx(kept.losses, abs=1e-6)
    assert again.trainable == again.moved == kept.moved


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("stage", OFFLOADED)
def test_an_offloaded_optimizer_takes_the_same_steps(
    root: Path, of: Callable[..., Seen], world: int, stage: int
) -> None:
    whole, resumed = of(f"{world}-offload-{stage}"), of(f"{world}-offload-{stage}-resumed")
    assert whole.losses == pytest.approx(of("1-stage-0").losses, abs=1e-5)
    assert whole.moved == whole.trainable
    assert resumed.losses == whole.losses[3:]
    assert resumed.digest == whole.digest


@pytest.mark.parametrize("world", WORLDS)
def test_a_run_without_progress_stops_early(of: Callable[..., Seen], world: int) -> None:
    for rank in range(world):
        assert [entry["epoch"] for entry in of(f"{world}-stops-early", rank).metrics] == [1, 2, 3]


@pytest.mark.parametrize(("world", "stage"), ENDS)
def test_a_loss_that_is_no_number_ends_the_run_with_its_weights_untouched(
    of: Callable[..., Seen], world: int, stage: int
) -> None:
    for rank in range(world):
        found = of(f"{world}-diverges-{stage}", rank)
        step = len(found.losses) + 1
        assert found.losses, "the first steps are sound"
        assert all(math.isfinite(loss) for loss in found.losses)
        assert f"in step {step} (epoch 1)" in found.error
        assert found.error.startswith("train.learning_rate = 1e+30: ")
        assert "lower train.learning_rate" in found.error.lower()
        assert not found.touched
        assert found.metrics == []


@pytest.mark.parametrize(("world", "stage"), ENDS)
def test_updates_that_are_not_finite_can_be_skipped(
    of: Callable[..., Seen], world: int, stage: int
) -> None:
    found = of(f"{world}-skips-{stage}")
    assert len(found.losses) == 6
    broken = [loss for loss in found.losses if not math.isfinite(loss)]
    assert 0 < len(broken) <= found.skipped < 6
    assert not found.error
