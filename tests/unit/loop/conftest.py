"""The runs of tests/helpers/training/loop_cases.py, made once for all tests of this folder.

They take as long as all other unit tests together and mostly wait for one another, so they are made
while those run; the tests that look at them come last.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.helpers.training.loop_cases import STAGES, run, runs
from tests.helpers.training.loop_runs import Seen, seen, train_group

HERE = Path(__file__).parent
RUNS_TIMEOUT_S = 3600
FOLDER = pytest.StashKey[Path]()
MADE = pytest.StashKey[Future[None]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Behind the other tests that do not start Ray."""

    def place(item: pytest.Item) -> int:
        quick = item.path.parent.name == "contracts" or "unit" in item.path.parts
        return 1 if HERE in item.path.parents else 0 if quick else 2

    items.sort(key=place)
    for item in items:
        if HERE in item.path.parents:
            # The first of these tests waits for all runs, however slow the machine is.
            item.add_marker(pytest.mark.timeout(RUNS_TIMEOUT_S))


def pytest_collection_finish(session: pytest.Session) -> None:
    wanted = any(HERE in item.path.parents for item in session.items)
    if wanted and not session.config.option.collectonly:
        folder = Path(tempfile.mkdtemp(prefix="ftray-loop-"))
        session.config.stash[FOLDER] = folder
        session.config.stash[MADE] = ThreadPoolExecutor(1).submit(make_runs, folder)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if FOLDER in session.config.stash:
        shutil.rmtree(session.config.stash[FOLDER], ignore_errors=True)


def make_runs(folder: Path) -> None:
    for stage in STAGES:
        content = {"bf16": {"enabled": True}, "zero_optimization": {"stage": stage}}
        (folder / f"bf16-{stage}.json").write_text(json.dumps(content))
    crossed = run("2-stage-2-to-3", 3, resume="2-stage-2/3")
    train_group(folder, 2, [*runs(2, folder), crossed])
    scaled = [run(f"2-to-1-stage-{stage}", stage, resume=f"2-stage-{stage}/3") for stage in STAGES]
    train_group(folder, 1, [*runs(1, folder), *scaled])


@pytest.fixture(scope="session")
def root(pytestconfig: pytest.Config) -> Path:
    """Where all runs are."""
    pytestconfig.stash[MADE].result()
    return pytestconfig.stash[FOLDER]


@pytest.fixture
def of(root: Path) -> Callable[..., Seen]:
    return lambda name, rank=0: seen(root, name, rank)
