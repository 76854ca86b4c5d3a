"""What depth buys: the table by depth, what the trials show, and what is recorded of it."""

from __future__ import annotations

from typing import Any

import pytest

from ftray.tune.depth import Comparison, compare_depths
from ftray.tune.study import Study
from ftray.tune.trial_state import Outcome, TrainUntil
from ftray.tune.wording import advice, told
from tests.helpers.training.played import spec

ROWS = 400


def course(found: list[Any], **sections: Any) -> Study:
    """A finished sweep of trials (depth, metric after each epoch, seconds, learning rate where the
    trials differ in that too)."""
    space = {"train.unfreeze": {"choice": [0, 1, 2, "all"]}}
    made = Study(spec(space, **sections))
    for number, (depth, values, seconds, *rate) in enumerate(found):
        config = dict(zip(("train.unfreeze", "train.learning_rate"), (depth, *rate), strict=False))
        segment = TrainUntil(str(number + 1), config, len(values))
        made.begin(segment)
        metrics = {"best": abs(max(values)), "memory": 1e9 * (number + 1)}
        made.end(segment, Outcome(tuple(values), metrics, seconds, over=True))
    return made


FOUND: list[tuple[Any, list[float], float]] = [
    (0, [0.70, 0.72], 2.0),
    (1, [0.80, 0.84], 8.0),
    (1, [0.60], 4.0),
    (2, [0.85, 0.85], 12.0),
    ("all", [0.84, 0.845], 30.0),
]


def test_each_depth_has_its_best_trial_its_time_and_what_it_cost() -> None:
    made = course(FOUND, scale={"price_per_worker_hour": 36.0})
    found = {depth.unfreeze: depth for depth in compare_depths(made, ROWS).depths}
    assert list(found) == [0, 1, 2, "all"], "fastest first"
    one = found[1]
    assert (one.trials, one.metric, one.epoch_seconds) == (2, 0.84, 4.0)
    assert one.worker_hours == pytest.approx(12 / 3600)
    assert one.cost == pytest.approx(0.12)
    assert one.memory == 3e9
    assert one.low is not None and one.high is not None
    assert one.high - one.low == pytest.approx(2 * 1.96 * (0.84 * 0.16 / ROWS) ** 0.5, rel=0.02)
    assert one.metric - one.low > one.high - one.metric > 0, "Wilson's leans towards a half"


def chosen(comparison: Comparison) -> list[Any]:
    return [depth.unfreeze for depth in comparison.depths if depth.recommended]


def beaten(comparison: Comparison) -> list[Any]:
    return [depth.unfreeze for depth in comparison.depths if depth.beaten]


def test_what_few_rows_leave_open_is_not_recommended() -> None:
    found = compare_depths(course(FOUND), ROWS)
    assert not chosen(found)
    assert [depth.unfreeze for depth in found.depths if depth.pareto] == [0, 1, 2]
    assert beaten(found) == [], "the head alone is worse, but faster; nothing else is shown"
    said = advice("accuracy", found)
    assert "cannot be told yet" in said
    assert "400 validation rows leave open" in said
    assert "Train " not in said


def test_rows_enough_tell_and_what_they_tell_is_recommended() -> None:
    found = compare_depths(course(FOUND), 10**9)
    assert chosen(found) == [2]
    assert beaten(found) == ["all"]


def test_the_number_of_rows_it_names_is_the_number_that_tells() -> None:
    trials = [(0, [0.80], 2.0), (1, [0.84], 8.0)]
    found = compare_depths(course(trials), ROWS)
    head, one = found.depths
    assert not chosen(found)
    needed = found.needed(head, ROWS)
    assert needed is not None
    # Of the difference of two shares, with 80 % power.
    closed = (2.8 / 0.04) ** 2 * (0.84 * 0.16 + 0.8 * 0.2)
    assert needed == pytest.approx(closed, rel=0.05)
    assert chosen(compare_depths(course(trials), needed)) == [1]
    assert "validation rows" in advice("accuracy", found)


def test_the_faster_of_two_that_many_rows_show_to_be_alike_is_recommended() -> None:
    found = compare_depths(course([(0, [0.840], 2.0), (1, [0.842], 8.0)]), 100_000)
    assert chosen(found) == [0]
    assert beaten(found) == []
    assert "nothing that trains longer was shown to do better" in advice("accuracy", found)


FEW = [(0, [0.60], 2.0, 1e-5), (0, [0.62], 2.0, 3e-3), (1, [0.84], 8.0, 2e-4)]


def test_a_depth_that_may_just_have_had_poor_learning_rates_is_not_called_worse() -> None:
    found = compare_depths(course(FEW), 100_000)
    assert not chosen(found) and not beaten(found)
    said = advice("accuracy", found)
    assert "with 1 trial at a depth the other values may have made the difference" in said
    assert "at least 3 trials at each depth (tune.trials of 6 or more" in said


def test_three_trials_a_depth_or_the_same_values_are_evidence() -> None:
    rates = [1e-5, 2e-4, 3e-3]
    many = [(d, [v], 2.0 + d, r * (1 + d)) for d, v in ((0, 0.6), (1, 0.84)) for r in rates]
    assert chosen(compare_depths(course(many), 100_000)) == [1]
    same = [(d, [v], 2.0 + d, 2e-4) for d, v in ((0, 0.6), (1, 0.84))]
    assert chosen(compare_depths(course(same), 100_000)) == [1]


def test_slower_and_worse_is_beaten_on_evidence_only() -> None:
    trials = [(0, [0.84], 2.0), (1, [0.80], 8.0)]
    assert beaten(compare_depths(course(trials), 10_000)) == [1]
    few = compare_depths(course(trials), 100)
    assert beaten(few) == []
    assert chosen(few) == [0], "the fastest is the best as well"


def test_a_loss_is_better_the_lower_and_one_seed_tells_nothing() -> None:
    trials = [(0, [-0.6], 2.0), (1, [-0.45], 8.0), (2, [-0.5], 12.0)]
    found = compare_depths(course(trials, train={"metric": "loss"}), ROWS)
    assert [depth.metric for depth in found.depths] == [0.6, 0.45, 0.5]
    assert [depth.unfreeze for depth in found.depths if depth.pareto] == [0, 1]
    assert found.depths[1].low is None
    assert not chosen(found) and not beaten(found)
    said = advice("loss", found)
    assert "one seed does not tell" in said
    assert "tune.finalists with 3 trials and 3 seeds or more" in said


@pytest.mark.parametrize("metric, best", [("loss", 0.45), ("accuracy", 0.8)])
def test_seeds_tell_for_a_loss_as_for_a_share(metric: str, best: float) -> None:
    sign = -1 if metric == "loss" else 1
    made = course(
        [(0, [sign * best - 0.1], 1.0), (1, [sign * best], 2.0)],
        train={"metric": metric},
        tune={"trials": 2, "finalists": {"trials": 2, "seeds": 3}},
    )
    while segment := made.next():
        made.begin(segment)
        value = made.trials[segment.trial[0]].values[-1]
        value += {"2": 0.001, "3": -0.001}[segment.trial[2]]
        made.end(segment, Outcome((value,), {"best": sign * value}, 1.0, over=True))
    found = compare_depths(made, ROWS)
    assert found.depths[0].seeds == 3
    assert chosen(found) == [1]


def test_with_several_seeds_the_interval_is_theirs() -> None:
    made = course(
        [(0, [0.7], 1.0), (1, [0.8], 2.0)],
        tune={"trials": 2, "finalists": {"trials": 2, "seeds": 3}},
    )
    while segment := made.next():
        made.begin(segment)
        value = {"1": 0.7, "2": 0.8}[segment.trial[0]] + {"2": 0.02, "3": -0.02}[segment.trial[2]]
        made.end(segment, Outcome((value,), {"best": value}, 1.0, over=True))
    head, one = compare_depths(made, ROWS).depths
    assert one.metric == pytest.approx(0.8)
    assert one.high == pytest.approx(0.8 + 4.303 * 0.02 / 3**0.5)
    assert head.worker_hours == pytest.approx(3 / 3600)


@pytest.mark.parametrize("found", [[], FOUND[:1], FOUND[1:3]])
def test_one_depth_is_nothing_to_choose_from(found: list[Any]) -> None:
    assert compare_depths(course(found), ROWS).depths == ()


def test_what_is_recorded_has_the_order_of_the_trials_and_the_advice() -> None:
    made = course(FOUND)
    found = compare_depths(made, ROWS)
    event = told(made, found, 2)
    assert event["ranking"] == [trial.trial for trial in made.table()]
    assert [depth["name"] for depth in event["depths"]] == [
        "the head alone",
        "the top 1 block",
        "the top 2 blocks",
        "all blocks",
    ]
    assert event["advice"] == advice("macro-F1", found)
    alone = course(FOUND[1:3])
    nothing = told(alone, compare_depths(alone, ROWS), 2)
    assert (nothing["depths"], nothing["advice"]) == ([], "")


def test_advice_names_what_more_time_would_buy() -> None:
    trials = [(0, [0.840], 2.0), (1, [0.846], 8.0)]
    found = compare_depths(course(trials), 400_000)
    assert chosen(found) == [0], "as good, but for a point"
    assert "the top 1 block reaches 0.8460" in advice("accuracy", found)


def test_what_a_trial_costs_beside_its_epochs_does_not_count() -> None:
    made = course([(0, [0.7], 9.0), (1, [0.8], 2.0)])
    for trial, seconds in (("1", 0.1), ("2", 0.5)):
        made.trials[trial].metrics["epoch_seconds"] = seconds
    assert [depth.unfreeze for depth in compare_depths(made, ROWS).depths] == [0, 1]


def test_a_perfect_score_is_no_certainty() -> None:
    found = compare_depths(course([(0, [0.9], 1.0), (1, [1.0], 2.0)]), 40).depths
    assert found[1].low is not None and found[1].low < 0.95
