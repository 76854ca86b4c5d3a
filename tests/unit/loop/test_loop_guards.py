"""Guards against overfitting, and skewed labels."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.helpers.training.loop_cases import EVENED, WORLDS
from tests.helpers.training.loop_runs import Seen


@pytest.mark.parametrize("name", [*EVENED, "fewer-tokens"])
def test_two_workers_learn_as_one_does_under_every_guard(
    of: Callable[..., Seen], name: str
) -> None:
    one, two = of(f"1-{name}"), of(f"2-{name}")
    assert two.losses == pytest.approx(one.losses, abs=1e-5)
    without = of("2-without-dropout").losses
    assert two.losses != pytest.approx(without, abs=3e-5), "it does something"


@pytest.mark.parametrize("world", WORLDS)
def test_a_resumed_run_leaves_out_the_same_tokens(of: Callable[..., Seen], world: int) -> None:
    whole, resumed = of(f"{world}-fewer-tokens"), of(f"{world}-fewer-tokens-resumed")
    assert resumed.losses == whole.losses[3:]
    assert resumed.digest == whole.digest


@pytest.mark.parametrize("world", WORLDS)
def test_guards_leave_evaluation_alone(of: Callable[..., Seen], world: int) -> None:
    guarded, plain = of(f"{world}-guarded").metrics[0], of(f"{world}-stops-early").metrics[0]
    assert guarded["loss"] == pytest.approx(plain["loss"], abs=1e-6)
    assert guarded["f1_macro"] == plain["f1_macro"]


@pytest.mark.parametrize("world", WORLDS)
def test_a_run_that_overfits_says_so_once_and_on_every_rank(
    of: Callable[..., Seen], world: int
) -> None:
    """Random labels can only be learnt by heart."""
    for rank in range(world):
        (line,) = of(f"{world}-by-heart", rank).warnings
        assert "overfits" in line
        assert of(f"{world}-stops-early", rank).warnings == []
