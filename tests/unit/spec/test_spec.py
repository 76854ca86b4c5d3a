"""Overrides change a spec, writing and reading keep it, and some values follow from others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ftray.errors import SpecError
from ftray.spec.load import dump, load, override, parse
from ftray.spec.schema import Spec, micro_batch_size
from tests.helpers.small_spec import SMALL, TEXT, tree


@pytest.mark.parametrize(
    ("item", "path", "value"),
    [
        ("train.learning_rate=2e-5", "train.learning_rate", 2e-5),
        ("train.learning_rate=3", "train.learning_rate", 3.0),
        ("data.validation=2e-1", "data.validation", 0.2),
        ("data.validation=held-out.csv", "data.validation", "held-out.csv"),
        ("data.columns.text=review=body", "data.columns.text", "review=body"),
        ("train.clip=null", "train.clip", None),
        ("train.unfreeze=all", "train.unfreeze", "all"),
        ("train.unfreeze=0", "train.unfreeze", 0),
        ("train.deepspeed={stage: 3}", "train.deepspeed.stage", 3),
        ("train.deepspeed.stage=1", "train.deepspeed.stage", 1),
        ("train.early_stopping.patience=4", "train.early_stopping.patience", 4),
        ("name=other", "name", "other"),
        (" name =other", "name", "other"),
        ("tune.trials=3", "tune.trials", 3),
        ("serve.batch.max_size=4", "serve.batch.max_size", 4),
    ],
)
def test_set_overrides_a_key(file: Path, item: str, path: str, value: Any) -> None:
    file.write_text(TEXT + "tune: {space: {train.epochs: {choice: [1, 2]}}}\n")
    spec: Any = load(file, [item])
    for name in path.split("."):
        spec = getattr(spec, name)
    assert spec == value
    assert type(spec) is type(value)


def test_set_gives_lists_and_the_search_space(file: Path) -> None:
    spec = load(
        file,
        [
            "tune.space={train.epochs: {choice: [1, 2]}}",
            "tune.space.train.learning_rate={loguniform: [1e-5, 1e-3]}",
            "tune.space.train.epochs={choice: [3]}",
        ],
    )
    assert spec.tune is not None
    assert spec.tune.space["train.learning_rate"].values == (1e-5, 1e-3)
    assert spec.tune.space["train.epochs"].values == (3,)


def test_the_last_of_two_overrides_wins(file: Path) -> None:
    assert load(file, ["train.epochs=2", "train.epochs=5"]).train.epochs == 5


@pytest.mark.parametrize(
    ("item", "key", "problem"),
    [
        ("train.epochs", "--set", "not KEY=VALUE"),
        ("=3", "--set", "not KEY=VALUE"),
        ("train.epochs={a: 1", "train.epochs", "whole number"),
        ("name.first=x", "name.first", "name is not a section"),
        ("train.epoch=3", "train.epoch", "unknown key"),
        ("train.epochs=", "train.epochs", "whole number"),
    ],
)
def test_a_wrong_override_is_refused(file: Path, item: str, key: str, problem: str) -> None:
    with pytest.raises(SpecError) as caught:
        load(file, [item])
    assert caught.value.problems[0].key == key
    assert problem in caught.value.problems[0].problem


def full() -> Spec:
    return parse(
        tree(
            {
                "storage": "s3://bucket/prefix",
                "train.clip": None,
                "train.unfreeze": "all",
                "train.early_stopping": {"patience": 2, "min_delta": 0.01},
                "scale.workers": 2,
                "tune.space": {
                    "train.learning_rate": {"loguniform": [1e-5, 1e-3]},
                    "train.unfreeze": {"choice": [0, "all"]},
                    "train.epochs": {"randint": [1, 3]},
                    "train.warmup": {"uniform": [0, 0.5]},
                },
            }
        )
    )


@pytest.mark.parametrize("spec", [parse(SMALL), full()], ids=["smallest", "full"])
def test_a_spec_survives_writing_and_reading(spec: Spec, file: Path) -> None:
    assert override(spec, {}) == spec
    file.write_text(dump(spec))
    assert load(file) == spec
    assert Spec.model_validate_json(spec.model_dump_json()) == spec


def test_an_override_leaves_its_spec_as_it_was() -> None:
    before = full()
    after = override(before, {"train.epochs": 7, "scale.workers": 1, "train.unfreeze": 0})
    assert before == full()
    assert (after.train.epochs, after.scale.workers, after.train.unfreeze) == (7, 1, 0)
    assert after.tune == before.tune


def test_an_override_is_checked_against_the_whole_spec() -> None:
    with pytest.raises(SpecError) as caught:
        override(full(), {"train.batch_size": 1})
    assert caught.value.problems[0].key == "train.batch_size"


def test_a_spec_never_changes() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse(SMALL).train.epochs = 9  # type: ignore[misc]


def test_the_metric_says_which_way_is_better() -> None:
    assert parse(tree({"train.metric": "loss"})).train.metric_mode == "min"
    assert parse(tree({"train.metric": "accuracy"})).train.metric_mode == "max"


@pytest.mark.parametrize(
    ("batch", "workers", "size"),
    [(32, 1, 32), (32, 2, 16), (33, 1, 17), (64, 1, 32), (64, 2, 32), (100, 3, 17), (1, 1, 1)],
)
def test_auto_spreads_the_batch_evenly_over_forward_passes(
    batch: int, workers: int, size: int
) -> None:
    spec = parse(tree({"train.batch_size": batch, "scale.workers": workers}))
    assert micro_batch_size(spec, workers) == size


def test_a_micro_batch_that_was_set_stays() -> None:
    spec = parse(tree({"train.micro_batch_size": 5}))
    assert [micro_batch_size(spec, workers) for workers in (1, 2, 6)] == [5, 5, 5]
