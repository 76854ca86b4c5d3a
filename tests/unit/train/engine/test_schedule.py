"""The learning rate of every step, without a state."""

from __future__ import annotations

import math

import pytest

from ftray.spec.sections.training import TrainSpec
from ftray.train.engine.schedule import learning_rate

PEAK = 2e-4


def rates(schedule: str, warmup: float, steps: int) -> list[float]:
    tree = {"schedule": schedule, "warmup": warmup, "learning_rate": PEAK}
    spec = TrainSpec.model_validate(tree)
    return [learning_rate(spec, step, steps) for step in range(steps)]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_it_rises_evenly_to_the_peak_and_never_above(schedule: str) -> None:
    found = rates(schedule, warmup=0.2, steps=50)
    assert found[:10] == pytest.approx([PEAK * (i + 1) / 10 for i in range(10)])
    assert found[9] == pytest.approx(PEAK)
    assert max(found) <= PEAK * (1 + 1e-12)
    assert min(found) > 0


def test_linear_falls_by_equal_steps_towards_zero() -> None:
    found = rates("linear", warmup=0.1, steps=20)[2:]
    assert found == pytest.approx([PEAK * (1 - i / 18) for i in range(18)])


def test_cosine_falls_along_half_a_wave() -> None:
    found = rates("cosine", warmup=0.1, steps=20)[2:]
    assert found == pytest.approx([PEAK * (1 + math.cos(math.pi * i / 18)) / 2 for i in range(18)])
    assert found[9] == pytest.approx(PEAK / 2)


def test_constant_stays_at_the_peak() -> None:
    assert set(rates("constant", warmup=0.1, steps=20)[2:]) == {PEAK}


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_without_warm_up_it_starts_at_the_peak(schedule: str) -> None:
    found = rates(schedule, warmup=0, steps=10)
    assert found[0] == PEAK
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0, 0.1, 0.99])
def test_a_run_of_one_step_makes_it_at_the_peak(schedule: str, warmup: float) -> None:
    assert rates(schedule, warmup, steps=1) == [PEAK]


def test_warm_up_over_nearly_the_whole_run() -> None:
    assert rates("linear", warmup=0.99, steps=4) == pytest.approx(
        [PEAK / 4, PEAK / 2, PEAK * 3 / 4, PEAK]
    )


def test_it_is_what_transformers_makes_one_step_later() -> None:
    """transformers starts at zero; here the first step already learns. The rest is the same."""
    import torch
    from transformers import get_linear_schedule_with_warmup

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    theirs = get_linear_schedule_with_warmup(optimizer, 4, 40)
    expected = []
    for _ in range(40):
        expected.append(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()
    found = rates("linear", warmup=0.1, steps=40)
    assert found[:4] == pytest.approx(expected[1:5])
    assert found[4:] == pytest.approx(expected[4:])
