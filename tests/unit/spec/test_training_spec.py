"""What train.unfreeze, scale.workers and their like take, and how wrong ones are told."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from ftray.errors import SpecError
from ftray.models.structure.blocks import Selection
from ftray.spec.load import dump, parse
from ftray.spec.schema import Spec
from ftray.spec.sections.training import TrainSpec
from ftray.train.engine.phases import Phase, index_at, layer_decay, plan_phases
from ftray.train.engine.schedule import learning_rate


def spec(**sections: Any) -> Spec:
    base = {"name": "x", "model": {"name_or_path": "m"}, "data": {"train": "d"}}
    return parse({**base, **sections})


def phases(unfreeze: Any, epochs: int = 3, blocks: int = 6) -> list[tuple[int, Selection]]:
    told = spec(train={"unfreeze": unfreeze, "epochs": epochs}).train
    return [(phase.epoch, phase.selection) for phase in plan_phases(told, blocks)]


@pytest.mark.parametrize(
    ("unfreeze", "epochs", "expected"),
    [
        (2, 3, [(0, 2)]),
        ("head", 3, [(0, 0)]),
        ("all", 3, [(0, "all")]),
        (["classifier", r"layer\\.5"], 3, [(0, ("classifier", r"layer\\.5"))]),
        ("top-quarter", 3, [(0, 2)]),
        ("lp-ft", 2, [(0, 0), (1, "all")]),
        ("lp-ft", 9, [(0, 0), (3, "all")]),
        ("gradual", 2, [(0, 0), (1, "all")]),
        ("gradual", 3, [(0, 0), (1, 3), (2, "all")]),
        ("gradual", 8, [*((n, n) for n in range(7)), (7, "all")]),
        ("gradual", 10, [*((n, n) for n in range(7)), (7, "all")]),
        ([{"epoch": 0, "blocks": "head"}, {"epoch": 2, "blocks": 4}], 3, [(0, 0), (2, 4)]),
    ],
)
def test_what_trains_when(unfreeze: Any, epochs: int, expected: list[Any]) -> None:
    assert phases(unfreeze, epochs) == expected


def test_a_phase_has_a_rate_of_its_own() -> None:
    told = spec(train={"unfreeze": [{"epoch": 0, "blocks": 0, "rate": 5}]}).train
    assert plan_phases(told, 6) == (Phase(0, 0, 5.0),)
    assert plan_phases(spec(train={"unfreeze": "lp-ft"}).train, 6)[0].rate == 10


def test_the_phase_of_an_epoch() -> None:
    schedule = (Phase(0, 0), Phase(2, 1), Phase(3, "all"))
    assert [index_at(schedule, epoch) for epoch in range(5)] == [0, 0, 1, 2, 2]


def test_gradual_unfreezing_brings_its_rates_unless_others_are_set() -> None:
    gradual = spec(train={"unfreeze": "gradual"}).train
    assert layer_decay(gradual) == pytest.approx(1 / 2.6)
    peak = gradual.learning_rate
    rates = [learning_rate(gradual, step, 100) for step in range(100)]
    assert max(rates) == rates[10] == peak
    assert rates[-1] == pytest.approx(peak / 32, rel=0.4), "a slanted triangle ends at 1/32"
    own = spec(train={"unfreeze": "gradual", "layer_decay": 1, "schedule": "linear"}).train
    assert layer_decay(own) == 1
    assert learning_rate(own, 99, 100) < peak / 80
    assert layer_decay(spec().train) == 1


def test_a_spec_with_all_of_it_survives_being_written() -> None:
    told = spec(
        train={
            "unfreeze": [{"epoch": 0, "blocks": ["a"]}, {"epoch": 1, "blocks": "all"}],
            "groups": [{"match": "^classifier", "learning_rate": 1e-3}],
        },
        scale={"workers": {"min": 1, "max": 4}},
    )
    import yaml

    assert parse(yaml.safe_load(dump(told))) == told
    assert (told.scale.fewest_workers, told.scale.most_workers) == (1, 4)


@pytest.mark.parametrize(
    ("section", "values", "key", "said"),
    [
        ("train", {"unfreeze": [{"epoch": 1, "blocks": 0}]}, "train.unfreeze", "epoch 0"),
        (
            "train",
            {"unfreeze": [{"epoch": 0, "blocks": 0}, {"epoch": 0, "blocks": 1}]},
            "train.unfreeze",
            "rising",
        ),
        (
            "train",
            {"unfreeze": [{"epoch": 0, "blocks": 0}, {"epoch": 7, "blocks": 1}]},
            "train.unfreeze",
            "the last of the run is 2",
        ),
        ("train", {"unfreeze": ["("]}, "train.unfreeze.0", "regular expression, and it is none"),
        ("train", {"unfreeze": []}, "train.unfreeze", "a list of at least 1 value"),
        ("train", {"unfreeze": "lpft"}, "train.unfreeze", "lp-ft"),
        ("train", {"unfreeze": "gradual", "epochs": 1}, "train.unfreeze", "two epochs"),
        ("train", {"unfreeze": [{"epoch": 0, "block": 0}]}, "train.unfreeze.0.block", "blocks"),
        ("train", {"layer_decay": 1.5}, "train.layer_decay", "at most 1"),
        ("train", {"groups": [{"match": "["}]}, "train.groups.0.match", "regular expression"),
        ("train", {"checkpoint": {"every_steps": 0}}, "train.checkpoint.every_steps", "above 0"),
        ("scale", {"workers": {"min": 3, "max": 2}}, "scale.workers", "min 3 is above max 2"),
        ("scale", {"workers": {"min": 3}}, "scale.workers.max", "missing"),
        ("scale", {"hang_minutes": 0}, "scale.hang_minutes", "above 0"),
    ],
)
def test_a_fault_is_told_by_its_key(
    section: str, values: dict[str, Any], key: str, said: str
) -> None:
    with pytest.raises(SpecError) as caught:
        spec(**{section: values})
    found = {problem.key: str(problem) for problem in caught.value.problems}
    assert key in found
    assert said in found[key]


@pytest.mark.parametrize(("written", "meant"), [("on", "on"), ("off", "off"), ("auto", "auto")])
def test_on_and_off_are_what_they_say_in_yaml(written: str, meant: str) -> None:
    assert yaml.safe_load("on") is True
    tree = yaml.safe_load(f"trunk_cache: {written}")
    assert TrainSpec.model_validate(tree).trunk_cache == meant
