"""The runs of tests/helpers/loop_cases.py, made once for all tests of this folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.loop_cases import STAGES, run, runs
from tests.helpers.loop_runs import Seen, seen, train_group


@pytest.fixture(scope="package")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all runs are, made once."""
    folder = tmp_path_factory.mktemp("runs")
    for stage in STAGES:
        content = {"bf16": {"enabled": True}, "zero_optimization": {"stage": stage}}
        (folder / f"bf16-{stage}.json").write_text(json.dumps(content))
    crossed = run("2-stage-2-to-3", 3, resume="2-stage-2/3")
    train_group(folder, 2, [*runs(2, folder), crossed])
    scaled = [run(f"2-to-1-stage-{stage}", stage, resume=f"2-stage-{stage}/3") for stage in STAGES]
    train_group(folder, 1, [*runs(1, folder), *scaled])
    return folder


@pytest.fixture
def of(root: Path) -> Callable[..., Seen]:
    return lambda name, rank=0: seen(root, name, rank)
