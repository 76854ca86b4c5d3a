"""The base model that a process keeps for the trials of a sweep."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftray.data.dataset import read_dataset
from ftray.spec.load import parse
from ftray.tune.trial import base_of
from tests.helpers.task_kinds import KINDS


@pytest.mark.parametrize("name", ["table", "regression"])
def test_trials_of_any_task_share_what_they_begin_with(name: str, tmp_path: Path) -> None:
    tree = KINDS[name].tree(tmp_path)
    spec = parse(tree)
    schema = read_dataset(spec).schema
    first = base_of(spec, schema)
    deeper = parse({**tree, "train": {**tree["train"], "unfreeze": 1}})
    assert base_of(deeper, schema) is first
    other = base_of(parse({**tree, "seed": 7}), schema)
    assert other is not first and other.model is not first.model
