"""The contract of every scheduler with a sweep, however the scheduler judges a trial."""

from __future__ import annotations

from typing import Any

import pytest

from ftray.tune.schedulers import SCHEDULERS
from ftray.tune.search import recall
from ftray.tune.study import Study
from ftray.tune.trial_state import TrainUntil
from tests.helpers.training.played import Player, by_batch_and_rate, spec

TRIALS = 20


@pytest.fixture(params=sorted(SCHEDULERS))
def section(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"scheduler": request.param, "trials": TRIALS, "refit": False}


def course(section: dict[str, Any], epochs: int = 9) -> Study:
    return Study(spec(tune=section, train={"epochs": epochs}))


@pytest.mark.parametrize("slots", [1, 2, 7])
@pytest.mark.parametrize("epochs", [1, 2, 9])
def test_every_trial_begins_and_the_best_one_is_trained_to_its_end(
    section: dict[str, Any], slots: int, epochs: int
) -> None:
    player = Player(course(section, epochs), by_batch_and_rate, slots)
    player.play()
    trials = player.course.drawn
    assert len(trials) == TRIALS
    assert all(1 <= len(trial.values) <= epochs for trial in trials)
    best = max(trials, key=lambda trial: trial.config["train.learning_rate"])
    assert player.course.ranking()[0] == best
    assert best.over


def test_a_segment_begins_where_the_one_before_it_ended(section: dict[str, Any]) -> None:
    player = Player(course(section), by_batch_and_rate, slots=3)
    player.play()
    stood: dict[str, int] = {}
    for segment in player.played:
        assert segment.until > stood.get(segment.trial, 0), "nothing is trained twice"
        stood[segment.trial] = segment.until


@pytest.mark.parametrize("ends", [0, 1, 5, 12, 19])
def test_a_sweep_whose_driver_was_killed_comes_to_the_same(
    section: dict[str, Any], ends: int
) -> None:
    whole = Player(course(section), by_batch_and_rate)
    whole.play()
    killed = Player(course(section), by_batch_and_rate)
    killed.play(ends)
    again = course(section)
    recall(again, killed.events)
    rest = Player(again, by_batch_and_rate)
    rest.play()
    assert again.drawn == whole.course.drawn
    assert [*killed.played, *rest.played] == whole.played


def test_trials_that_fail_do_not_end_it(section: dict[str, Any]) -> None:
    def some_fail(segment: TrainUntil, epoch: int) -> float | None:
        failing = segment.config["train.batch_size"] == 8
        return None if failing else by_batch_and_rate(segment, epoch)

    player = Player(course(section), some_fail, slots=2)
    player.play()
    failed = [trial for trial in player.course.drawn if trial.error]
    assert 0 < len(failed) < TRIALS == len(player.course.drawn)
    assert not player.course.ranking()[0].error
    assert player.course.ranking()[-1].error


def test_a_budget_ends_it_after_what_is_under_way(section: dict[str, Any]) -> None:
    player = Player(
        course({**section, "budget": {"worker_hours": 0.2}}), by_batch_and_rate, slots=2
    )
    player.play()
    spent = sum(trial.seconds for trial in player.course.trials.values())
    assert 0.2 * 3600 <= spent <= 0.2 * 3600 + 2 * 9 * 60
    assert len(player.course.drawn) < TRIALS
    assert player.course.spent == "tune.budget.worker_hours = 0.2"
