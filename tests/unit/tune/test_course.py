"""Which trial goes on: searchers, schedulers, budgets and finalists, on made-up metrics."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

from ftray.errors import RunFailed, SpecError
from ftray.train.progress import BEST, Progress
from ftray.tune.searchers import draw_grid, draw_random, draw_tpe
from ftray.tune.space import depth_variants, trial_spec
from ftray.tune.study import Study
from ftray.tune.sweep import winner
from ftray.tune.trial_state import Outcome, TrainUntil
from tests.helpers.training.played import Player, by_batch_and_rate, spec

SPACE = {
    "train.learning_rate": {"loguniform": [1e-5, 1e-3]},
    "train.warmup": {"uniform": [0.0, 0.5]},
    "train.batch_size": {"randint": [8, 10]},
    "train.unfreeze": {"choice": [0, 2, "all"]},
}


def random_draws(count: int) -> list[dict[str, Any]]:
    section = spec(SPACE, tune={"trials": count}).tune
    assert section is not None
    return [draw_random(section, 0, number, ()) for number in range(count)]


def test_random_draws_cover_each_domain_evenly() -> None:
    drawn = random_draws(12)
    rates = sorted(math.log10(config["train.learning_rate"]) for config in drawn)
    parts = [int((rate + 5) * 6) for rate in rates]
    assert parts == list(range(12)), "one in each twelfth of the magnitudes"
    for path, values in (("train.batch_size", [8, 9, 10]), ("train.unfreeze", [0, 2, "all"])):
        assert Counter(config[path] for config in drawn) == dict.fromkeys(values, 4), path


def test_no_two_random_trials_are_the_same_where_there_is_room() -> None:
    space = {"train.batch_size": {"randint": [8, 10]}, "train.unfreeze": {"choice": [0, 2, "all"]}}
    for seed in range(20):
        for trials, different in ((6, 6), (20, 7)):
            section = spec(space, tune={"trials": trials}).tune
            assert section is not None
            points = [tuple(draw_random(section, seed, n, ()).values()) for n in range(trials)]
            assert len(set(points)) >= different


def test_the_longest_trials_begin_first_unless_a_budget_may_end_the_sweep() -> None:
    space = {"train.epochs": {"choice": [1, 4]}, "train.unfreeze": {"choice": [0, 2, "all"]}}

    def begun(**more: Any) -> list[dict[str, Any]]:
        made = spec(space, tune={"trials": 6, "scheduler": "fifo", **more})
        player = Player(Study(made), lambda segment, epoch: 0.5)
        player.play()
        return [segment.config for segment in player.played]

    def work(config: dict[str, Any]) -> int:
        return config["train.epochs"] * {0: 1, 2: 3, "all": 1001}[config["train.unfreeze"]]

    for searcher in ("random", "grid"):
        found = [work(config) for config in begun(searcher=searcher)]
        assert found == sorted(found, reverse=True)
    section = spec(space, tune={"trials": 6}).tune
    assert section is not None
    drawn = [draw_random(section, 42, number, ()) for number in range(6)]
    assert begun(budget={"minutes": 1e6}) == drawn
    assert begun() != drawn and sorted(map(str, begun())) == sorted(map(str, drawn))


def test_a_grid_has_every_point_once() -> None:
    space = {"train.batch_size": {"randint": [8, 10]}, "train.unfreeze": {"choice": [0, "all"]}}
    made = spec(space, tune={"searcher": "grid"})
    section = made.tune
    assert section is not None and section.count == 6
    points = [tuple(draw_grid(section, 0, number, ()).values()) for number in range(6)]
    assert set(points) == {(size, depth) for size in (8, 9, 10) for depth in (0, "all")}
    assert points != sorted(points, key=str), "in no order that a budget would cut unevenly"


def test_tpe_learns_from_what_was_tried() -> None:
    section = spec({"train.learning_rate": {"uniform": [0.0001, 1.0]}}).tune
    assert section is not None
    tried: list[tuple[dict[str, Any], float | None]] = []
    for number in range(40):
        config = draw_tpe(section, 0, number, tried)
        tried.append((config, -abs(config["train.learning_rate"] - 0.7)))
    late = [abs(config["train.learning_rate"] - 0.7) for config, _ in tried[-12:]]
    assert np.median(late) < 0.1


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ({"searcher": "grid", "space": SPACE}, "tune.space.train.learning_rate"),
        (
            {"searcher": "grid", "trials": 3, "space": {"train.epochs": {"choice": [1, 2]}}},
            "tune.trials",
        ),
        ({"budget": {"cost": 5}}, "tune.budget.cost"),
        ({"finalists": {"trials": 1}}, "tune.finalists.trials"),
        ({"scheduler": "pbt"}, "tune.refit"),
        ({"scheduler": "pbt", "refit": False, "finalists": {}}, "tune.finalists"),
        (
            {"scheduler": "pbt", "refit": False, "space": {"train.unfreeze": {"choice": [0, 1]}}},
            "tune.space",
        ),
        (
            {
                "scheduler": "pbt",
                "refit": False,
                "space": {**SPACE, "train.epochs": {"choice": [1, 2]}},
            },
            "tune.space.train.epochs",
        ),
    ],
)
def test_what_contradicts_itself_is_told_by_key(section: dict[str, Any], key: str) -> None:
    section = {**section}
    with pytest.raises(SpecError) as caught:
        spec(section.pop("space", None), tune=section)
    assert caught.value.problems[0].key == key


def test_a_trial_has_the_values_at_their_paths_and_the_scale_of_a_trial() -> None:
    made = spec(SPACE, scale={"workers": 2})
    trial = trial_spec(made, {"train.learning_rate": np.float64(1e-4), "train.batch_size": 9})
    assert trial.scale.workers == 1
    assert (trial.train.learning_rate, trial.train.batch_size) == (1e-4, 9)
    assert (trial.train.epochs, trial.data) == (made.train.epochs, made.data)


def test_values_that_contradict_one_another_are_told_by_key() -> None:
    space = {"train.batch_size": {"choice": [32, 8]}, "train.micro_batch_size": {"choice": [4, 16]}}
    made = spec(space, train={"batch_size": 16})
    with pytest.raises(SpecError) as caught:
        trial_spec(made, {"train.batch_size": 8, "train.micro_batch_size": 16})
    assert caught.value.problems[0].key == "train.micro_batch_size"


def test_every_depth_that_a_trial_may_have_is_known() -> None:
    depths = {"train.unfreeze": {"randint": [1, 3]}}
    assert [one.train.unfreeze for one in depth_variants(spec(depths))] == [1, 2, 3]
    assert depth_variants(made := spec()) == (made,)


@pytest.mark.parametrize(
    ("domain", "most"), [({"choice": [1, 5, 3]}, 5), ({"randint": [1, 4]}, 4), (None, 3)]
)
def test_the_longest_trial_is_known(domain: dict[str, Any] | None, most: int) -> None:
    space = {"train.epochs": domain} if domain else SPACE
    assert Study(spec(space, train={"epochs": 3})).most_epochs == most


def epochs_trained(section: dict[str, Any], epochs: int, slots: int = 1) -> list[int]:
    player = Player(Study(spec(tune=section, train={"epochs": epochs})), by_batch_and_rate, slots)
    player.play()
    return sorted((len(trial.values) for trial in player.course.drawn), reverse=True)


def test_asha_promotes_a_third_at_each_rung_even_with_one_slot() -> None:
    trained = epochs_trained({"scheduler": "asha", "trials": 27}, 9)
    assert trained.count(1) >= 16, "those below the best third of all wait after one epoch"
    assert trained.count(9) >= 3
    assert sum(trained) < 27 * 9 / 2


def test_hyperband_lets_some_begin_with_more_epochs() -> None:
    trained = epochs_trained({"scheduler": "hyperband", "trials": 12}, 9)
    assert trained.count(1) < 12 / 2 and trained.count(3) >= 3


def test_the_median_rule_stops_about_half() -> None:
    trained = epochs_trained({"scheduler": "median", "trials": 20}, 4)
    assert 5 <= trained.count(4) <= 15
    assert set(trained) > {4}


def test_a_trial_with_fewer_epochs_than_the_next_rung_is_trained_to_its_own_end() -> None:
    space = {**SPACE, "train.epochs": {"choice": [2, 9]}}
    made = spec(space, tune={"trials": 18, "scheduler": "asha"})
    player = Player(Study(made), by_batch_and_rate)
    player.play()
    short = [t for t in player.course.drawn if t.epochs == 2 and len(t.values) > 1]
    assert short and all(trial.over and len(trial.values) == 2 for trial in short)


def test_a_budget_of_minutes_counts_those_of_earlier_drivers() -> None:
    now = [100.0]
    made = spec(tune={"trials": 9, "budget": {"minutes": 2}, "scheduler": "fifo"})
    course = Study(made, clock=lambda: now[0])
    course.spent_before = 60.0
    assert course.next() is not None
    now[0] += 60
    assert course.next() is None
    assert course.spent == "tune.budget.minutes = 2"


def test_a_budget_of_money_needs_and_uses_the_price() -> None:
    made = spec(
        tune={"trials": 9, "workers": 2, "budget": {"cost": 3.0}, "scheduler": "fifo"},
        scale={"workers": 2, "price_per_worker_hour": 6.0},
        train={"epochs": 5},
    )
    player = Player(Study(made), by_batch_and_rate)
    player.play()
    # Two workers for five minutes are a sixth of an hour: one unit a trial.
    assert len(player.course.drawn) == 3


def lucky(segment: TrainUntil, epoch: int) -> float:
    """Its first seed flatters trial 2."""
    number = int(segment.trial.partition(".")[0])
    luck = 5.0 if segment.trial == "2" else 0.0
    return number / 10 + luck


def test_finalists_are_trained_with_other_seeds_and_win_by_their_mean() -> None:
    finals = {"trials": 3, "seeds": 4}
    made = spec(tune={"trials": 6, "scheduler": "asha", "finalists": finals}, train={"epochs": 3})
    player = Player(Study(made), lucky, slots=2)
    player.play()
    course = player.course
    assert len(course.drawn) == 6
    assert player.busy[-9:] == [2] * 8 + [1], "no slot is idle while there is another seed"
    again = [trial for trial in course.trials.values() if "." in trial.trial]
    assert {trial.trial for trial in again} == {f"{n}.{s}" for n in (2, 6, 5) for s in (2, 3, 4)}
    assert all(trial.over for trial in again), "whole, whatever the scheduler thought of the first"
    assert {trial.config["seed"] for trial in again} == {43, 44, 45}
    assert [trial.trial for trial in course.ranking()[:3]] == ["2", "6", "5"]
    assert course.mean(course.trials["2"]) == pytest.approx((5.2 + 3 * 0.2) / 4)
    table = [trial.trial for trial in course.table()]
    assert table[:5] == ["2", "2.2", "2.3", "2.4", "6"]


@pytest.mark.parametrize("slots", [1, 3, 8])
def test_of_a_population_the_worst_go_on_as_the_best_with_other_values(slots: int) -> None:
    section = {"trials": 8, "scheduler": "pbt", "refit": False}
    made = spec(SPACE, tune=section, train={"epochs": 4})

    def steady(segment: TrainUntil, epoch: int) -> float:
        """Of the depth alone, and then of the trial's own number."""
        return epoch + {0: 0.1, 2: 0.2, "all": 0.3}[segment.config["train.unfreeze"]]

    player = Player(Study(made), steady, slots)
    player.play()
    cloned = [segment for segment in player.played if segment.donor]
    assert len(cloned) == 2 * 3, "a quarter of eight, after each epoch but the last"
    for segment in cloned:
        before = [s for s in player.played if s.trial == segment.donor and s.until < segment.until]
        theirs = before[-1].config
        assert before[-1].until == segment.until - 1, "from the end of the same epoch"
        assert segment.config["train.unfreeze"] == theirs["train.unfreeze"] == "all"
        ratio = segment.config["train.learning_rate"] / theirs["train.learning_rate"]
        clipped = segment.config["train.learning_rate"] in (1e-5, 1e-3)
        assert clipped or ratio == pytest.approx(0.8) or ratio == pytest.approx(1.2)
    assert all(trial.over and len(trial.values) == 4 for trial in player.course.drawn)
    best = player.course.ranking()[0]
    assert best.config["train.unfreeze"] == "all"


class CarefulCourse(Study):
    """Looks at each clone when it is made."""

    def begin(self, segment: TrainUntil) -> None:
        assert segment.donor is None or self.trials[segment.donor].waits
        super().begin(segment)


def test_no_trial_is_cloned_while_it_trains() -> None:
    section = {"trials": 9, "scheduler": "pbt", "refit": False}
    for seed in range(20):
        course = CarefulCourse(spec(SPACE, tune=section, train={"epochs": 5}))
        Player(course, by_batch_and_rate, slots=4, seed=seed).play()


def test_a_row_says_what_was_tried_and_what_it_reached() -> None:
    player = Player(Study(spec(tune={"trials": 5, "scheduler": "asha"})), by_batch_and_rate)
    player.play()
    for trial in player.course.drawn:
        assert trial.status == ("done" if len(trial.values) == 3 else "stopped")
        told = trial.to_json()
        assert told["config"] == trial.config and "error" not in told
        assert told["metrics"][BEST] == trial.values[-1]
        assert told["seconds"] == 60 * len(trial.values)


def test_a_trial_that_failed_says_why_and_has_no_metrics() -> None:
    player = Player(Study(spec(tune={"trials": 1})), lambda segment, epoch: None)
    player.play()
    (found,) = player.course.table()
    told = found.to_json()
    assert (found.status, told["metrics"], told["error"]) == ("failed", {}, "it diverged")


@pytest.mark.parametrize(
    ("trials", "said"), [(0, "Raise tune.budget"), (3, "the first said: it diverged")]
)
def test_a_sweep_in_which_nothing_trained_says_why(trials: int, said: str) -> None:
    player = Player(Study(spec(tune={"trials": 3})), lambda segment, epoch: None)
    player.play(ends=trials)
    with pytest.raises(RunFailed, match=said):
        winner(player.course, lambda line: None)


@pytest.mark.parametrize(
    ("metric", "values", "bests"),
    [
        ("accuracy", [0.5, 0.7, 0.6], (0.5, 0.7, 0.7)),
        ("loss", [0.5, 0.7, 0.4], (-0.5, -0.5, -0.4)),
        ("accuracy", [math.nan, 0.7, math.nan], (-math.inf, 0.7, 0.7)),
    ],
)
def test_values_never_fall_and_the_higher_is_the_better(
    metric: str, values: list[float], bests: tuple[float, ...]
) -> None:
    progress = Progress(history=[{"epoch": n, metric: value} for n, value in enumerate(values)])
    assert progress.bests(spec(train={"metric": metric}).train) == bests


def test_the_memory_of_a_trial_is_the_most_that_any_of_its_segments_took() -> None:
    course = Study(spec(train={"epochs": 3}))
    for until, held in ((1, 3e9), (2, 5e9), (3, 4e9)):
        segment = TrainUntil("1", {}, until)
        course.begin(segment)
        metrics = {"best": 0.5, "memory": held}
        course.end(segment, Outcome((0.5,) * until, metrics, 1.0, over=until == 3))
    assert course.trials["1"].metrics["memory"] == 5e9
