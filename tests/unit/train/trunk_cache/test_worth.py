"""Bootstrap intervals against closed forms and row-wise resampling, and what is said of a gain."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from ftray.models.artifact.worth import Worth
from ftray.models.inference.significance import (
    LabelAnswers,
    Spent,
    answers_of,
    measure_worth,
)
from ftray.tasks import get_task, task_info
from ftray.tasks.features import Batch
from ftray.tasks.metrics import Gathered
from ftray.tasks.schema import Schema
from tests.helpers.training.loop_runs import task_setup

Z = 1.959964
# Four standard errors of a standard deviation that 2,000 draws give.
SPREAD = 4 / np.sqrt(2 * LabelAnswers.resamples)


def guesses(truth: np.ndarray, right: float, classes: int, seed: int) -> np.ndarray:
    """Answers of which about that share is right."""
    random = np.random.default_rng(seed)
    other = random.integers(0, classes, len(truth))
    return np.where(random.random(len(truth)) < right, truth, other)


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth and the answers of two models, 160 rows of three skewed labels."""
    truth = np.random.default_rng(0).choice(3, 160, p=[0.6, 0.3, 0.1])
    return truth, guesses(truth, 0.5, 3, seed=1), guesses(truth, 0.7, 3, seed=2)


def worth(truth: Any, probe: Any, tuned: Any, seconds: float = 60.0, **more: Any) -> Worth:
    truth = np.asarray(truth)
    classes = int(max(truth.max(), *probe, *tuned)) + 1
    majority = int(np.bincount(truth).argmax())
    spent = Spent(seconds, seconds * 2 / 3600, more.pop("price", None))
    schema = Schema(labels=tuple(map(str, range(classes))))
    predictions = np.full_like(truth, majority), np.asarray(probe), np.asarray(tuned)
    answers = answers_of(schema, truth, predictions)
    info = task_info("text-classification")
    return measure_worth(answers, info, spent, len(truth), more.pop("seed", 3))


def test_the_spread_of_the_accuracy_is_the_binomial_standard_error() -> None:
    truth = np.zeros(400, dtype=np.int64)
    predicted = (np.arange(400) >= 320).astype(np.int64)
    drawn = LabelAnswers.of(truth, [predicted], 2).resampled(seed=1)[:, 0, 0]
    error = np.sqrt(0.8 * 0.2 / 400)
    assert drawn.std() == pytest.approx(error, rel=SPREAD)
    assert drawn.mean() == pytest.approx(0.8, abs=4 * error / np.sqrt(LabelAnswers.resamples))


def test_the_interval_is_the_normal_one_where_rows_are_many() -> None:
    truth = np.zeros(100_000, dtype=np.int64)
    predicted = (np.arange(100_000) >= 70_000).astype(np.int64)
    found = worth(truth, predicted, predicted).probe["accuracy"]
    error = np.sqrt(0.7 * 0.3 / 100_000)
    assert found.value == 0.7
    assert found.low == pytest.approx(0.7 - Z * error, abs=0.25 * error)
    assert found.high == pytest.approx(0.7 + Z * error, abs=0.25 * error)


def test_the_paired_gain_has_the_closed_forms_error() -> None:
    """Of the difference of two shares on the same rows (McNemar's)."""
    only_tuned, only_probe, n = 60, 40, 500
    truth = np.zeros(n, dtype=np.int64)
    probe, tuned = np.zeros_like(truth), np.zeros_like(truth)
    probe[:only_tuned] = 1
    tuned[only_tuned : only_tuned + only_probe] = 1
    drawn = LabelAnswers.of(truth, [probe, tuned], 2).resampled(seed=1)[..., 0]
    shares = np.array([only_tuned, only_probe]) / n
    error = np.sqrt((shares.sum() - (shares[0] - shares[1]) ** 2) / n)
    assert (drawn[:, 1] - drawn[:, 0]).std() == pytest.approx(error, rel=SPREAD)


def test_it_is_the_bootstrap_that_draws_row_by_row(rows: Any) -> None:
    truth, *predicted = rows
    random = np.random.default_rng(5)
    drawn = LabelAnswers.of(truth, predicted, 3).resampled(seed=1)
    by_row = np.empty_like(drawn)
    for resample in by_row:
        chosen = random.integers(0, len(truth), len(truth))
        resample[:] = LabelAnswers.of(truth[chosen], [p[chosen] for p in predicted], 3).scores()
    for mine, theirs in ((drawn, by_row), (drawn[:, 1] - drawn[:, 0], by_row[:, 1] - by_row[:, 0])):
        spread = theirs.std(0)
        assert mine.std(0) / spread == pytest.approx(np.ones_like(spread), rel=1.5 * SPREAD)
        assert (mine.mean(0) - theirs.mean(0)) / spread == pytest.approx(
            np.zeros_like(spread), abs=4 * np.sqrt(2 / LabelAnswers.resamples)
        )
        for tail in (2.5, 97.5):
            gap = (np.percentile(mine, tail, 0) - np.percentile(theirs, tail, 0)) / spread
            assert gap == pytest.approx(np.zeros_like(spread), abs=0.3)


def test_scores_are_the_metrics_of_the_task(rows: Any) -> None:
    truth, *predicted = rows
    task, setup = get_task("text-classification"), task_setup(("a", "b", "c", "never"))
    batch = Batch({}, {"labels": torch.from_numpy(truth)})
    scores = LabelAnswers.of(truth, predicted, 4).scores()
    for answers, (accuracy, f1) in zip(predicted, scores, strict=True):
        logits = torch.nn.functional.one_hot(torch.from_numpy(answers), 4).float()
        state = task.metric_state({"logits": logits}, batch, setup)
        sums = {name: value.numpy() for name, value in state.sums.items()}
        metrics = task.metrics(Gathered(sums, {}), setup.schema)
        assert (accuracy, f1) == pytest.approx((metrics["accuracy"], metrics["f1_macro"]))


@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
def test_the_f1_of_the_majority_label(share: float) -> None:
    truth = (np.arange(1000) >= 1000 * share).astype(np.int64)
    found = worth(truth, truth, truth).majority
    assert found["accuracy"].value == pytest.approx(share)
    assert found["f1_macro"].value == pytest.approx(share / (1 + share))


def test_rows_are_counted_so_their_number_costs_nothing() -> None:
    truth = np.random.default_rng(0).integers(0, 2, 300_000)
    answers = LabelAnswers.of(truth, [guesses(truth, 0.7, 2, 1), guesses(truth, 0.8, 2, 2)], 2)
    assert len(answers.counts) == 8
    assert answers.counts.sum() == 300_000


def test_it_is_a_function_of_the_seed(rows: Any) -> None:
    assert worth(*rows) == worth(*rows)
    assert worth(*rows, seed=4) != worth(*rows)


def test_a_model_like_the_probe_has_gained_nothing(rows: Any) -> None:
    truth, probe, _ = rows
    found = worth(truth, probe, probe, price=2.0)
    for gain in (found.over_probe["accuracy"], found.over_probe["f1_macro"]):
        assert (gain.value, gain.low, gain.high) == (0, 0, 0)
    assert "not distinguishable from zero" in found.verdict()
    assert found.cost is not None and found.cost_per_point is None


def test_a_gain_left_open_says_how_many_rows_would_settle_it() -> None:
    only_tuned, only_probe, n = 30, 20, 500
    truth = np.zeros(n, dtype=np.int64)
    probe, tuned = np.zeros_like(truth), np.zeros_like(truth)
    probe[:only_tuned] = 1
    tuned[only_tuned : only_tuned + only_probe] = 1
    found = worth(truth, probe, tuned)
    said = re.search(r"about ([\d,]+) test rows would settle", found.verdict())
    assert said is not None
    # McNemar's error of the difference, 80 % power at two-sided 5 %.
    closed = (2.8 / 0.02) ** 2 * (0.1 - 0.02**2)
    assert int(said[1].replace(",", "")) == pytest.approx(closed, rel=0.15)


def test_no_gain_at_all_is_settled_by_no_number_of_rows(rows: Any) -> None:
    truth, probe, _ = rows
    assert "the two do equally well on them" in worth(truth, probe, probe).verdict()


def test_a_gain_is_told_in_points() -> None:
    truth = np.arange(600) % 2
    probe, tuned = truth.copy(), truth.copy()
    probe[:120] = 1 - probe[:120]
    tuned[:30] = 1 - tuned[:30]
    found = worth(truth, probe, tuned)
    assert found.over_probe["accuracy"].low > 0
    assert "fine-tuning gained 15.0 points of accuracy" in found.verdict()
    worse = worth(truth, tuned, probe)
    assert "fine-tuning lost 15.0 points of accuracy" in worse.verdict()
    assert worse.over_majority["accuracy"].value == pytest.approx(0.3)


def test_what_it_cost() -> None:
    truth = np.arange(600) % 2
    probe = truth.copy()
    probe[:60] = 1 - probe[:60]
    found = worth(truth, probe, truth, seconds=1800.0, price=3.0)
    assert (found.worker_hours, found.cost) == (1.0, 3.0)
    assert found.cost_per_point == pytest.approx(0.3)
    assert (
        "1800 s, 1 worker-hours in all, trials included, a cost of 3, 0.3 for each point"
        in found.spent()
    )
    free = worth(truth, probe, truth)
    assert free.cost is None and "cost" not in free.spent()


def test_lines_and_card_say_every_figure(rows: Any) -> None:
    found = worth(*rows)
    card, lines = found.card(), " ".join(" ".join(found.lines()).split())
    for scores in (found.majority, found.probe, found.tuned):
        for estimate in (scores["accuracy"], scores["f1_macro"]):
            assert estimate.plain() in card
            assert estimate.plain() in lines
    for gain in (found.over_majority, found.over_probe):
        assert gain["accuracy"].points() in card
        assert gain["accuracy"].points() in lines
    assert found.spent() in lines
    assert found.verdict() in lines
    assert found.verdict()[1:] in card


def test_no_line_is_wider_than_80_columns(rows: Any) -> None:
    truth, probe, _ = rows
    wrong = (truth + 1) % 3
    for answers in ((truth, wrong, truth), (truth, truth, wrong), (truth, probe, probe)):
        found = worth(*answers, seconds=1_000_000.0, price=123.456)
        found = found.model_copy(update={"rows": 12_345_678})
        assert max(map(len, found.lines())) <= 80


def test_it_survives_json(rows: Any) -> None:
    found = worth(*rows, price=1.0)
    assert Worth.model_validate_json(found.model_dump_json()) == found
