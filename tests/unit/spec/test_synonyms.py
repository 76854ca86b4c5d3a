"""A key that is not there is answered with the key that was meant."""

from __future__ import annotations

import pytest

from ftray.spec import synonyms
from ftray.spec.paths import paths
from ftray.spec.schema import Spec
from tests.helpers.small_spec import problems

MULTI_LABEL = "multi-label-classification"
SYNONYMS = {
    "train.lr": "train.learning_rate",
    "lr": "train.learning_rate",
    "train.bs": "train.batch_size",
    "batch": "train.batch_size",
    "epochs": "train.epochs",
    "train.epoch": "train.epochs",
    "train.wd": "train.weight_decay",
    "train.seed": "seed",
    "train.model": "model.name_or_path",
    "model.name": "model.name_or_path",
    "train.lora_r": "train.lora.rank",
    "max_len": "data.max_length",
    "train.max_length": "data.max_length",
    "train.workers": "scale.workers",
    "data.label": "data.columns.label",
    "data.labels": "data.columns.label",
    "train.lrr": "train.learning_rate",
    "data.question": "data.columns.question",
    "tune.num_samples": "tune.trials",
    "serve.bacth": "serve.batch",
    "train.batchSize": "train.batch_size",
}


@pytest.mark.parametrize("key", SYNONYMS)
def test_the_key_that_was_meant_is_named(key: str) -> None:
    fixes = {found.key: found.fix for found in problems({key: 1})}
    assert fixes[key] == f"Did you mean {SYNONYMS[key]}?"


def test_columns_of_the_task_are_meant_first() -> None:
    told = {found.key: found.fix for found in problems({"data.labels": 1, "task": MULTI_LABEL})}
    assert told["data.labels"] == "Did you mean data.columns.labels?"


def test_every_synonym_stands_for_a_key() -> None:
    every = set(paths(Spec))
    assert not [key for key in synonyms.SYNONYMS.values() if key not in every]
    assert not [word for word in synonyms.SYNONYMS if word.casefold() != word]


def test_a_long_list_of_keys_is_cut() -> None:
    (found,) = problems({"train.zzz": 1})
    assert found.fix.endswith("more (see `ftray schema`).")
    assert len(found.fix) < 200
