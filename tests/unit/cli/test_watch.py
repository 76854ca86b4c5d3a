"""`ftray runs watch`: a run is followed from another process than the one that drives it."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ftray.cli.runs import app
from ftray.spec.load import parse
from ftray.store.files.location import locate
from ftray.store.root import Root
from ftray.store.runs import follow as module
from ftray.store.runs.folder import RunFolder
from ftray.store.runs.follow import follow
from tests.helpers.training.played import spec as played

RUN = "20260101-000000-aaaaaa"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setattr(module, "_LOOK_EVERY_S", {True: 0.02, False: 0.02})
    spec = parse(played().model_dump(mode="json", exclude_unset=True) | {"tune": None})
    return RunFolder.create(Root(locate(str(tmp_path))), spec, RUN)


def step(number: int) -> dict[str, Any]:
    return {"kind": "step", "step": number, "epoch": 1, "loss": 0.5, "rows": 8, "seconds": 0.1}


def test_records_come_once_each_as_they_are_written_until_the_run_ends(run: RunFolder) -> None:
    seen: list[int] = []
    run.append_metrics(step(1))
    for event in follow(RunFolder(run.location)):
        seen.append(event["step"])
        if len(seen) < 4:
            run.append_metrics(step(len(seen) + 1))
        else:
            run.set_status(state="done")
    assert seen == [1, 2, 3, 4]


def watch(run: RunFolder, *options: str) -> Any:
    return CliRunner().invoke(
        app, ["watch", RUN, f"--storage={run.location.path}/../../..", *options]
    )


def test_a_person_sees_epochs_and_the_end(run: RunFolder) -> None:
    epoch = {"kind": "epoch", "step": 2, "epoch": 1, "accuracy": 0.75, "loss": 0.5}
    run.append_metrics({"kind": "of a later ftray", "step": 0})
    for event in (step(1), step(2), {**epoch, "train_loss": 0.4, "best": 0.75}):
        run.append_metrics(event)
    timer = threading.Timer(0.3, lambda: run.set_status(state="done", model="m", version=3))
    timer.start()
    result = watch(run)
    timer.join()
    assert result.exit_code == 0
    assert "epoch 1" in result.stderr
    assert "0.75" in result.stderr
    assert "done: m:3" in result.stderr


def test_a_run_that_failed_says_why_and_exits_with_1(run: RunFolder) -> None:
    run.set_status(state="failed", message="the loss is nan")
    result = watch(run)
    assert result.exit_code == 1
    assert "failed: the loss is nan" in result.stderr
    assert json.loads(watch(run, "--json").stdout.splitlines()[-1])["state"] == "failed"
