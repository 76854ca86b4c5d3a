"""A sweep's ends: from the spec's domains to trials, and from their results to a table."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import numpy as np
import pytest

from ftray.errors import SpecError
from ftray.spec.load import parse
from ftray.spec.schema import Spec
from ftray.train.progress import BEST
from ftray.tune.space import most_epochs, param_space, trial_spec
from ftray.tune.table import Trial, rank, trial_row
from ftray.tune.trial import ERROR

SPACE = {
    "train.learning_rate": {"loguniform": [1e-5, 1e-3]},
    "train.warmup": {"uniform": [0.0, 0.5]},
    "train.batch_size": {"randint": [8, 10]},
    "train.unfreeze": {"choice": [0, 2, "all"]},
}


def spec(space: dict[str, Any] | None = None, **sections: dict[str, Any]) -> Spec:
    tune = {"space": SPACE if space is None else space, **sections.pop("tune", {})}
    base = {"name": "m", "model": {"name_or_path": "x"}, "data": {"train": "a.csv"}}
    return parse({**base, **sections, "tune": tune})


def samples(made: Spec, count: int = 400) -> list[dict[str, Any]]:
    assert made.tune is not None
    random.seed(0)
    np.random.seed(0)
    domains = param_space(made.tune)
    return [{path: domain.sample() for path, domain in domains.items()} for _ in range(count)]


def test_every_trial_has_a_value_of_each_domain() -> None:
    drawn = samples(spec())
    rates = [config["train.learning_rate"] for config in drawn]
    assert all(1e-5 <= rate <= 1e-3 for rate in rates)
    assert all(0 <= config["train.warmup"] <= 0.5 for config in drawn)
    assert {config["train.batch_size"] for config in drawn} == {8, 9, 10}, "both ends included"
    assert {config["train.unfreeze"] for config in drawn} == {0, 2, "all"}


def test_a_loguniform_domain_gives_each_magnitude_its_share() -> None:
    rates = [config["train.learning_rate"] for config in samples(spec())]
    below = sum(rate < 1e-4 for rate in rates) / len(rates)
    assert 0.4 < below < 0.6


def test_every_sample_makes_a_spec_at_the_scale_of_a_trial() -> None:
    made = spec(scale={"workers": 2})
    for config in samples(made, 20):
        trial = trial_spec(made, config)
        assert trial.scale.workers == 1
        assert trial.train.learning_rate == config["train.learning_rate"]
        assert trial.train.unfreeze == config["train.unfreeze"]
        assert trial.train.epochs == made.train.epochs
        assert trial.data == made.data


def test_numpy_values_of_a_sampler_are_taken() -> None:
    config = {"train.learning_rate": np.float64(1e-4), "train.batch_size": np.int64(9)}
    trial = trial_spec(spec(), config)
    assert (trial.train.learning_rate, trial.train.batch_size) == (1e-4, 9)


def test_values_that_contradict_one_another_are_told_by_key() -> None:
    space = {"train.batch_size": {"choice": [32, 8]}, "train.micro_batch_size": {"choice": [4, 16]}}
    made = spec(space, train={"batch_size": 16})
    with pytest.raises(SpecError) as caught:
        trial_spec(made, {"train.batch_size": 8, "train.micro_batch_size": 16})
    assert caught.value.problems[0].key == "train.micro_batch_size"


@pytest.mark.parametrize(
    ("domain", "most"),
    [({"choice": [1, 5, 3]}, 5), ({"randint": [1, 4]}, 4), (None, 3)],
)
def test_the_longest_trial_is_known(domain: dict[str, Any] | None, most: int) -> None:
    space = {"train.epochs": domain} if domain else SPACE
    assert most_epochs(spec(space, train={"epochs": 3})) == most


def row(last: dict[str, Any], error: str = "", told: Spec | None = None, **config: Any) -> Trial:
    return trial_row("t1", config, last, error, told or spec(train={"epochs": 3}))


DONE = {"epoch": 3, BEST: 0.8, "accuracy": 0.7, "loss": 0.5, "train_loss": 0.4, "pid": 12}


def test_a_row_says_what_was_tried_and_what_it_reached() -> None:
    found = row({**DONE, "time_total_s": 1.23456}, **{"train.unfreeze": 2})
    assert found == Trial(
        id="t1",
        config={"train.unfreeze": 2},
        metrics={BEST: 0.8, "epoch": 3, "accuracy": 0.7, "loss": 0.5, "train_loss": 0.4},
        status="done",
        seconds=1.235,
    )
    assert json.loads(json.dumps(found.to_json())) == found.to_json()
    assert "error" not in found.to_json()


@pytest.mark.parametrize(
    ("last", "config", "status"),
    [
        ({**DONE, "epoch": 3}, {}, "done"),
        ({**DONE, "epoch": 2}, {}, "stopped"),
        ({**DONE, "epoch": 2}, {"train.epochs": 2}, "done"),
        ({**DONE, "epoch": 3}, {"train.epochs": 5}, "stopped"),
    ],
)
def test_a_trial_that_ended_before_its_epochs_was_stopped(
    last: dict[str, Any], config: dict[str, Any], status: str
) -> None:
    assert row(last, **config).status == status


@pytest.mark.parametrize(
    ("last", "error"),
    [({"epoch": 0, BEST: -math.inf, ERROR: "diverged"}, ""), ({}, "diverged"), (DONE, "diverged")],
)
def test_a_trial_that_failed_says_why_and_has_no_metrics(last: dict[str, Any], error: str) -> None:
    found = row(last, error)
    assert found.status == "failed"
    assert found.metrics == {}
    assert found.to_json()["error"] == "diverged"


@pytest.mark.parametrize(
    ("metric", "order"), [("accuracy", ["high", "low"]), ("loss", ["low", "high"])]
)
def test_the_best_trial_comes_first_and_the_failed_last(metric: str, order: list[str]) -> None:
    told = spec(train={"metric": metric})
    rows = [
        Trial("failed", {}, {}, "failed", 1.0, "why"),
        Trial("nan", {}, {BEST: math.nan}, "done", 1.0),
        Trial("low", {}, {BEST: 0.1}, "done", 1.0),
        Trial("high", {}, {BEST: 0.9}, "stopped", 1.0),
    ]
    for start in range(len(rows)):
        shuffled = rows[start:] + rows[:start]
        ranked = [trial.id for trial in sorted(shuffled, key=lambda trial: rank(trial, told))]
        assert ranked[:2] == order
        assert set(ranked[2:]) == {"failed", "nan"}
