"""The trials of a sweep in MLflow: each a run below the sweep's, which has the winner's values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ftray.spec.load import override
from ftray.spec.schema import Spec
from ftray.store.database import tracking_uri
from ftray.store.files.location import locate
from ftray.store.root import Root
from ftray.store.runs.folder import RunFolder
from ftray.store.tracking import mlflow_tracker as tracking
from ftray.train.record.record import recorded
from ftray.tune.tracked import TrackedTrials
from tests.helpers.external.mlflow_server import below
from tests.helpers.training.played import spec

RUN = "20260101-000000-aaaaaa"
SPACE = {"train.learning_rate": {"choice": [1e-4, 2e-4, 4e-4]}}


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's tables are made within that on a busy machine too."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("_LOCAL_PATIENCE", "_LONGEST_CLOSE", "_KILLED_CLOSE"):
        monkeypatch.setattr(tracking, name, 300.0)


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(locate(str(tmp_path / "data")))


def ended(number: int, status: str, rate: float = 1e-4, **more: Any) -> dict[str, Any]:
    trial = {"kind": "trial", "id": str(number), "config": {"train.learning_rate": rate}}
    found = {"best": 0.5, "accuracy": 0.4, "epoch": 2, "step": 20}
    return {**trial, "status": status, "values": [0.5], "metrics": found, "seconds": 3.0, **more}


def made_step(number: int, step: int) -> dict[str, Any]:
    point = {"kind": "step", "step": step, "epoch": 1, "loss": 1 / step, "learning_rate": 1e-4}
    at = {"trial": str(number), "epoch": 1, "step": step, "steps": 20}
    return {"kind": "trial_step", **at, "points": (point,)}


def sweep_run(root: Root, sweep: Spec) -> RunFolder:
    return RunFolder.create(root, sweep, RUN, "tune")


def shown(root: Root) -> tuple[Any, dict[str, Any]]:
    """MLflow's run of the sweep, and those below it by name."""
    return below(tracking_uri(root), RUN)


def test_trials_end_as_they_did_and_the_sweep_has_the_winners_values(root: Root) -> None:
    sweep = spec(SPACE, tune={"workers": 1}, scale={"workers": 2})
    with recorded(root, sweep, sweep_run(root, sweep)) as record:
        trials = TrackedTrials(record.tracker, sweep)
        for number, rate in ((1, 1e-4), (2, 2e-4), (3, 4e-4)):
            trials(ended(number, "running", rate))
            trials(made_step(number, 5))
        trials(made_step(4, 1))  # whose beginning was not told
        trials(ended(1, "done"))
        trials(ended(2, "waiting", 2e-4))
        trials(ended(2, "stopped", 2e-4))
        trials(ended(3, "failed", 4e-4, error="it diverged"))
        record({"kind": "step", "step": 1, "loss": 0.25})
        record.trained(override(sweep, {"train.learning_rate": 2e-4}))
        record.made("m:1", root.models("m") / RUN, {"test": {"accuracy": 0.75}})
    parent, trials_shown = shown(root)
    assert parent.info.status == "FINISHED"
    assert parent.data.params["train.learning_rate"] == "0.0002"
    assert parent.data.tags["tune.space.train.learning_rate.choice"] == "[0.0001, 0.0002, 0.0004]"
    assert parent.data.tags["model"] == "m:1"
    assert parent.data.metrics == {"train/loss": 0.25, "model/test/accuracy": 0.75}
    assert {
        name: (run.info.status, run.data.tags["ended"]) for name, run in trials_shown.items()
    } == {
        "trial 1": ("FINISHED", "done"),
        "trial 2": ("FINISHED", "stopped"),
        "trial 3": ("FAILED", "failed"),
    }
    assert trials_shown["trial 3"].data.tags["error"] == "it diverged"
    second = trials_shown["trial 2"].data
    wanted = {"train.learning_rate": "0.0002", "train.batch_size": "32", "scale.workers": "1"}
    assert {key: second.params[key] for key in wanted} == wanted
    assert {"train.epochs", "train.unfreeze"} <= second.params.keys()
    assert second.metrics["train/loss"] == 0.2
    assert second.metrics["trial/best"] == 0.5


def test_a_sweep_that_is_cut_off_and_goes_on_has_each_trial_once(root: Root) -> None:
    sweep = spec(SPACE)
    run = sweep_run(root, sweep)
    with pytest.raises(KeyboardInterrupt), recorded(root, sweep, run) as record:
        trials = TrackedTrials(record.tracker, sweep)
        for number in (1, 2, 3):
            trials(ended(number, "running"))
        trials(ended(1, "done"))
        trials(ended(2, "waiting"))
        trials(ended(3, "interrupted"))
        raise KeyboardInterrupt
    parent, trials_shown = shown(root)
    assert parent.info.status == "KILLED"
    assert parent.data.params == {}, "who wins is not known"
    statuses = {name: run.info.status for name, run in trials_shown.items()}
    assert statuses == {"trial 1": "FINISHED", "trial 2": "KILLED", "trial 3": "KILLED"}
    with recorded(root, sweep, run) as record:
        trials = TrackedTrials(record.tracker, sweep)
        trials(ended(1, "done"))
        for number in (2, 3, 4):
            trials(ended(number, "running"))
            trials(ended(number, "done"))
    _, trials_shown = shown(root)
    assert {run.info.status for run in trials_shown.values()} == {"FINISHED"}
    assert sorted(trials_shown) == ["trial 1", "trial 2", "trial 3", "trial 4"]


def test_a_trial_whose_values_change_has_those_it_ends_with(root: Root) -> None:
    space = {"train.learning_rate": {"loguniform": [1e-5, 1e-3]}}
    sweep = spec(space, train={"epochs": 4}, tune={"scheduler": "pbt", "refit": False})
    with recorded(root, sweep, sweep_run(root, sweep)) as record:
        trials = TrackedTrials(record.tracker, sweep)
        trials(ended(1, "running", 1e-4))
        trials(ended(1, "waiting", 1e-4))
        trials(ended(1, "running", 3e-4))
        trials(ended(1, "done", 3e-4))
    assert shown(root)[1]["trial 1"].data.params["train.learning_rate"] == "0.0003"
