"""What depth buys: the table by depth, the choice, and the page that shows it."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest

from ftray.tune.course import Course
from ftray.tune.depth import Depth, depths
from ftray.tune.report import advice, page
from ftray.tune.standing import Outcome, Segment
from ftray.tune.table import rows
from tests.helpers.played import spec

ROWS = 400


def course(found: list[tuple[Any, list[float], float]], **sections: Any) -> Course:
    """A finished sweep of trials (depth, metric after each epoch, seconds)."""
    space = {"train.unfreeze": {"choice": [0, 1, 2, "all"]}}
    made = Course(spec(space, **sections))
    for number, (depth, values, seconds) in enumerate(found):
        segment = Segment(str(number + 1), {"train.unfreeze": depth}, len(values))
        made.begin(segment)
        metrics = {"best": max(values), "memory": 1e9 * (number + 1)}
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
    found = {depth.unfreeze: depth for depth in depths(made, ROWS)}
    assert list(found) == [0, 1, 2, "all"], "fastest first"
    one = found[1]
    assert (one.trials, one.metric, one.epoch_seconds) == (2, 0.84, 4.0)
    assert one.worker_hours == pytest.approx(12 / 3600)
    assert one.cost == pytest.approx(0.12)
    assert one.memory == 3e9
    assert one.low is not None and one.high is not None
    assert one.high - one.low == pytest.approx(2 * 1.96 * (0.84 * 0.16 / ROWS) ** 0.5, rel=0.02)
    assert one.metric - one.low > one.high - one.metric > 0, "Wilson's leans towards a half"


def test_the_fastest_within_a_standard_error_of_the_best_is_recommended() -> None:
    found = depths(course(FOUND), ROWS)
    assert [depth.unfreeze for depth in found if depth.recommended] == [1]
    assert [depth.unfreeze for depth in found if depth.pareto] == [0, 1, 2]
    exact = depths(course(FOUND), 10**9)
    assert [depth.unfreeze for depth in exact if depth.recommended] == [2]


def test_a_loss_is_better_the_lower() -> None:
    found: list[tuple[Any, list[float], float]] = [
        (0, [-0.6], 2.0),
        (1, [-0.45], 8.0),
        (2, [-0.5], 12.0),
    ]
    by_depth = {d.unfreeze: d for d in depths(course(found, train={"metric": "loss"}), ROWS)}
    assert [depth.metric for depth in by_depth.values()] == [0.6, 0.45, 0.5]
    assert [depth for depth in by_depth if by_depth[depth].recommended] == [1]
    assert [depth for depth in by_depth if by_depth[depth].pareto] == [0, 1]
    assert by_depth[1].low is None


def test_with_several_seeds_the_interval_is_theirs() -> None:
    made = course(
        [(0, [0.7], 1.0), (1, [0.8], 2.0)],
        tune={"trials": 2, "finalists": {"trials": 2, "seeds": 3}},
    )
    while segment := made.next():
        made.begin(segment)
        value = {"1": 0.7, "2": 0.8}[segment.trial[0]] + {"2": 0.02, "3": -0.02}[segment.trial[2]]
        made.end(segment, Outcome((value,), {"best": value}, 1.0, over=True))
    head, one = depths(made, ROWS)
    assert one.metric == pytest.approx(0.8)
    assert one.high == pytest.approx(0.8 + 4.303 * 0.02 / 3**0.5)
    assert head.worker_hours == pytest.approx(3 / 3600)


@pytest.mark.parametrize("found", [[], FOUND[:1], FOUND[1:3]])
def test_one_depth_is_nothing_to_choose_from(found: list[Any]) -> None:
    assert depths(course(found), ROWS) == ()


class Reader(HTMLParser):
    """The text of a page, and whether every tag is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None: ...

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_shows_both_tables_and_needs_nothing_beside_it() -> None:
    made = course(FOUND)
    reader = Reader()
    reader.feed(page("<b>odd</b>", "accuracy", rows(made), depths(made, ROWS)))
    assert not reader.open and not reader.links
    text = " ".join(reader.text)
    assert "<b>odd</b>" in text
    assert "the top 1 block" in text and "take this" in text and "0.8400" in text
    assert advice("accuracy", depths(made, ROWS)) in text


def test_a_page_without_depths_and_with_failed_trials_is_whole() -> None:
    made = course(FOUND[1:3])
    late = Segment("9", {"train.unfreeze": 1}, 1)
    made.begin(late)
    made.end(late, Outcome((), {}, 1.0, False, "it <diverged>"))
    reader = Reader()
    reader.feed(page("m", "accuracy", rows(made), ()))
    assert not reader.open
    assert "it <diverged>" in " ".join(reader.text)


def test_advice_names_what_more_time_would_buy() -> None:
    found = depths(course(FOUND), ROWS)
    assert "the top 1 block" in advice("accuracy", found)
    assert "the top 2 blocks reaches 0.8500" in advice("accuracy", found)
    alone = Depth(0, 1, 0.9, None, None, 1.0, None, 0.1, None, True, True)
    assert "nothing that trains longer does better" in advice("accuracy", (alone,))


def test_what_a_trial_costs_beside_its_epochs_does_not_count() -> None:
    made = course([(0, [0.7], 9.0), (1, [0.8], 2.0)])
    for trial, seconds in (("1", 0.1), ("2", 0.5)):
        made.trials[trial].metrics["epoch_seconds"] = seconds
    assert [depth.unfreeze for depth in depths(made, ROWS)] == [0, 1]


def test_a_perfect_score_is_no_certainty() -> None:
    found = depths(course([(0, [0.9], 1.0), (1, [1.0], 2.0)]), 40)
    assert found[1].low is not None and found[1].low < 0.95
