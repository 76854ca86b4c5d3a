"""The contract of every searcher with a sweep."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from ftray.spec.sections.tuning import TuneSpec
from ftray.tune.searchers import SEARCHERS, Config
from ftray.tune.space import trial_spec
from tests.helpers.training.played import spec

FINITE: dict[str, Any] = {
    "train.batch_size": {"randint": [8, 10]},
    "train.unfreeze": {"choice": [0, 2, "all", [{"epoch": 0, "blocks": 1}]]},
}
CONTINUOUS: dict[str, Any] = {
    "train.learning_rate": {"loguniform": [1e-5, 1e-3]},
    "train.warmup": {"uniform": [0.0, 0.5]},
}


@pytest.fixture(params=sorted(SEARCHERS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


COUNT = 12


def section(name: str) -> TuneSpec:
    space = FINITE if name == "grid" else {**FINITE, **CONTINUOUS}
    made = spec(space, tune={"searcher": name, "trials": COUNT}).tune
    assert made is not None
    return made


def draws(name: str, count: int = COUNT, seed: int = 1) -> list[Config]:
    tried: list[tuple[Config, float | None]] = []
    for number in range(count):
        config = SEARCHERS[name](section(name), seed, number, tried)
        tried.append((config, None if number % 3 else float(number)))
    return [config for config, _ in tried]


def test_every_draw_makes_a_spec(name: str) -> None:
    searched = section(name)
    base = spec({path: d.model_dump(exclude_none=True) for path, d in searched.space.items()})
    for config in draws(name):
        assert config.keys() == searched.space.keys()
        assert trial_spec(base, config).scale.workers == 1
        for path, domain in searched.space.items():
            low, high = domain.values[0], domain.values[-1]
            inside = (
                config[path] in domain.values
                if domain.kind == "choice"
                else (low <= config[path] <= high)
            )
            assert inside, path


def test_the_same_seed_draws_the_same(name: str) -> None:
    assert draws(name) == draws(name)
    assert draws(name) != draws(name, seed=2)


def test_a_draw_depends_on_its_number_and_what_was_tried_and_changes_nothing(name: str) -> None:
    tried = [(config, 0.5) for config in draws(name, 3)]
    before = copy.deepcopy(tried)
    first = SEARCHERS[name](section(name), 1, 3, tried)
    assert SEARCHERS[name](section(name), 1, 3, tried) == first
    assert tried == before
