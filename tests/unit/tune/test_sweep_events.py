"""What a sweep tells of its trials: each begins, goes on, and ends as something."""

from __future__ import annotations

from typing import Any

from ftray.store.files.location import locate
from ftray.tune.search import _counts, _Feed, recall
from ftray.tune.study import Study
from ftray.tune.tracked import points_of
from ftray.tune.trial import _AT, _METRICS, _OVER, _POINTS, _VALUES, Sweep
from tests.helpers.training.played import spec

SPACE = {"train.learning_rate": {"choice": [1e-4, 2e-4, 4e-4, 8e-4]}}


def made(course: Study) -> tuple[_Feed, list[dict[str, Any]], list[dict[str, Any]]]:
    told: list[dict[str, Any]] = []
    watched: list[dict[str, Any]] = []
    sweep: Any = Sweep(course.spec, None, locate("/nowhere"))  # type: ignore[arg-type]
    return _Feed(course, sweep, told.append, watched.append), told, watched


def result(value: float, over: bool) -> dict[str, Any]:
    return {_VALUES: (value,), _METRICS: [("best", value)], _OVER: over, "time_total_s": 1.0}


def test_after_an_interruption_no_trial_runs_and_counts_add_up() -> None:
    course = Study(spec(SPACE, train={"epochs": 4}, tune={"trials": 6, "scheduler": "asha"}))
    feed, told, watched = made(course)
    for name in "abc":
        assert feed.suggest(name) is not None
    step = {"kind": "step", "step": 7, "epoch": 1, "loss": 0.5, "learning_rate": 1e-4}
    feed.on_trial_result("a", {_AT: (1, 7, 40), _POINTS: (step,)})
    at = {"epoch": 1, "step": 7, "steps": 40, "points": (step,)}
    assert watched == [{"kind": "trial_step", "trial": "1", **at}]
    again = {**step, "loss": 0.25}
    feed.on_trial_result("a", {_AT: (1, 7, 40), _POINTS: (again,)})
    feed.on_trial_complete("a", result(0.5, over=False))
    feed.on_trial_complete("b", result(0.9, over=True))
    assert points_of(told, "1") == [again], "a process that died made the step twice"
    feed.close(interrupted=True)
    last = {event["id"]: event["status"] for event in told}
    assert last == {"1": "waiting", "2": "done", "3": "interrupted"}
    assert _counts(course) == "of 6 trials 1 done, 1 interrupted, 1 paused, 3 not begun"

    # The same command goes on: what ended before is shown, what goes on is said to run.
    course = Study(course.spec)
    recall(course, told)
    feed, told, watched = made(course)
    feed.open()
    assert [(event["id"], event["status"]) for event in watched] == [("2", "done")]
    assert feed.suggest("d") is not None
    statuses = [event["status"] for event in [*told, *watched[1:]]]
    assert statuses == ["running"]


def test_what_waits_when_a_sweep_is_over_has_stopped() -> None:
    course = Study(spec(SPACE, train={"epochs": 4}, tune={"trials": 2, "scheduler": "asha"}))
    feed, told, _ = made(course)
    feed.suggest("a")
    feed.on_trial_complete("a", result(0.5, over=False))
    feed.close(interrupted=False)
    assert told[-1]["status"] == "stopped"
