"""Tracking services beside MLflow, and what MLflow shows of a run beyond numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ftray.errors import SpecError
from ftray.spec.load import parse
from ftray.spec.schema import Spec
from ftray.store.database import import_quietly, tracking_uri
from ftray.store.files.location import locate
from ftray.store.root import Root
from ftray.store.runs.environment import FILE, read_environment
from ftray.store.runs.folder import LOG, RunFolder
from ftray.store.runs.inputs import Inputs
from ftray.store.tracking import mlflow_tracker, trackers
from ftray.train.record.lines import Lines
from ftray.train.record.record import recorded
from tests.helpers.external.mlflow_server import below
from tests.helpers.training.played import spec as played

RUN = "20260101-000000-aaaaaa"


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("_LOCAL_PATIENCE", "_LONGEST_CLOSE", "_KILLED_CLOSE"):
        monkeypatch.setattr(mlflow_tracker, name, 300.0)


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(locate(str(tmp_path / "data")))


def with_keys(**keys: Any) -> Spec:
    return parse(played().model_dump(mode="json", exclude_unset=True) | {"tune": None} | keys)


def made(root: Root, spec: Spec) -> RunFolder:
    inputs = Inputs("abc123", {"train": 8, "validation": 2, "test": 3}, "", "base5", None, "")
    return RunFolder.create(root, spec, RUN, "train", inputs)


def play(root: Root, spec: Spec) -> RunFolder:
    """A run of one step and one epoch that exports a model."""
    run, lines = made(root, spec), Lines(lambda line: None)
    lines("before the folder was known")
    folder = root.models("m") / RUN
    (folder / "README.md").write_text("# m")
    with recorded(root, spec, run, lines) as record:
        record.trained(spec)
        record({"kind": "start", "step": 0, "epoch": 0, "precision": "bf16", "workers": 2})
        held = {"memory": 2_000_000_000, "cores": 1.9}
        step = {"kind": "step", "step": 1, "epoch": 1, "loss": 0.5, "rows": 32, "seconds": 0.5}
        record({**step, **held, "phases": {"forward": 0.2, "update": 0.1}, "mfu": 0.4})
        record({**step, "step": 2, "phases": {"forward": 0.3}})
        record({"kind": "epoch", "step": 1, "epoch": 1, "accuracy": 0.7, "train_loss": 0.4})
        record.made("m:3", folder, {"test": {"accuracy": 0.75}})
        run.set_status(state="done")
    return run


def test_mlflow_shows_where_a_run_comes_from_and_what_it_made(root: Root) -> None:
    spec = with_keys()
    play(root, spec)
    shown, _ = below(tracking_uri(root), RUN)
    assert "None" not in shown.data.params.values()
    assert shown.data.params["train.batch_size"] == str(spec.train.batch_size)
    tags = shown.data.tags
    assert (tags["kind"], tags["data_digest"], tags["base_digest"]) == ("train", "abc123", "base5")
    assert (tags["precision"], tags["workers"], tags["model"]) == ("bf16", "2", "m:3")
    assert tags["mlflow.source.type"] == "LOCAL"
    assert tags["mlflow.user"]
    assert shown.data.metrics == {
        "train/loss": 0.5,
        "train/samples_per_second": 64.0,
        "train/mfu": 0.4,
        "train/seconds/forward": 0.2,
        "train/seconds/update": 0.1,
        "system/memory_megabytes": 2000.0,
        "system/cores_used": 1.9,
        "validation/accuracy": 0.7,
        "train/loss_of_epoch": 0.4,
        "model/test/accuracy": 0.75,
    }
    data = {each.tags[0].value: each.dataset for each in shown.inputs.dataset_inputs}
    assert data.keys() == {"training", "validation", "test"}
    assert json.loads(data["training"].profile) == {"num_rows": 8}
    client = import_quietly()(tracking_uri(root), tracking_uri(root))
    files = {file.path for file in client.list_artifacts(shown.info.run_id)}
    assert files == {"spec.yaml", "inputs.json", "environment.json", "README.md"}


def test_the_log_has_what_was_said_and_the_environment_what_ran(root: Root) -> None:
    run = play(root, with_keys())
    lines = [
        line.partition(" ") for line in (run.location / LOG).read_bytes().decode().splitlines()
    ]
    assert [line[2] for line in lines] == [
        "before the folder was known",
        "epoch 1, step 1: accuracy 0.7000, train_loss 0.4000",
        "registered m:3",
    ]
    assert all(time.endswith("Z") for time, _, _ in lines)
    found = read_environment(run.location)
    assert found.packages.keys() >= {"torch", "ray", "transformers"}
    assert found.command
    (run.location / FILE).delete()
    assert not read_environment(run.location).command, "an older ftray wrote none"


def test_a_run_that_fails_says_so_in_its_log(root: Root) -> None:
    spec = with_keys()
    run = made(root, spec)
    with pytest.raises(ValueError), recorded(root, spec, run):
        raise ValueError("it diverged at s3://KEY:SECRET@bucket/x")
    log = (run.location / LOG).read_bytes().decode()
    assert "failed: it diverged" in log
    assert "SECRET" not in log


def test_tensorboard_has_the_curves_of_a_run_and_of_its_trials(root: Root) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    spec = with_keys(track={"tensorboard": True})
    trackers.check_tracking(spec, root)
    folder = locate(f"{root}/runs/m/{RUN}")
    tracker = trackers.Trackers(root, spec, folder, "tune")
    tracker.run.parameters({"epochs": 3, "lora": None})
    trial = tracker.child("trial 1")
    for step in (1, 2):
        trial.log(step, {"train/loss": 1 / step})
    tracker.close()
    events = EventAccumulator(f"{folder.path}/tensorboard/trial-1").Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 1.0), (2, 0.5)]
    whole = EventAccumulator(f"{folder.path}/tensorboard/run").Reload()
    assert "parameter/epochs/text_summary" in whole.Tags()["tensors"]
    assert "parameter/lora/text_summary" not in whole.Tags()["tensors"]


def test_wandb_gets_runs_offline(
    root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    spec = with_keys(track={"wandb": {"project": "reviews"}})
    trackers.check_tracking(spec, root)
    tracker = trackers.Trackers(root, spec, locate(f"{root}/runs/m/{RUN}"), "tune")
    tracker.run.parameters({"epochs": 3})
    tracker.run.attach("card/README.md", b"# m")
    trial = tracker.child("trial 1")
    trial.log(1, {"train/loss": 0.5})
    trial.end("FINISHED")
    tracker.close()
    kept = [path.name for path in (tmp_path / "wandb").glob("offline-run-*")]
    assert len(kept) == 2, "the run and its trial"


class Failing(trackers.Tracker):
    """A service that fails when it is used."""

    class Run(trackers.TrackedRun):
        def tag(self, tags: Any) -> None: ...
        def parameters(self, params: Any) -> None: ...
        def attach(self, name: str, content: bytes) -> None: ...
        def end(self, status: Any) -> None: ...
        def log(self, step: int, metrics: Any) -> None:
            raise RuntimeError("no route to https://me:secret@api.example.org")

    def __init__(self, *_: Any) -> None:
        self.run = self.Run()

    def child(self, name: str) -> Any:
        raise RuntimeError("no route")

    def close(self, status: Any = "FINISHED") -> None:
        raise RuntimeError("no route")


def test_a_service_that_fails_ends_no_run_and_is_named(
    root: Root, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trackers, "TensorboardTracker", Failing)
    spec = with_keys(track={"tensorboard": True})
    tracker = trackers.Trackers(root, spec, locate(f"{root}/runs/m/{RUN}"), "train")
    for step in (1, 2):
        tracker.run.log(step, {"loss": 0.5})
    tracker.child("trial 1").log(1, {"loss": 0.25})
    tracker.close()
    said = [record.getMessage() for record in caplog.records]
    assert sum("track.tensorboard" in line and "no route" in line for line in said) == len(said)
    assert not any("secret" in line for line in said)
    run, children = below(tracking_uri(root), RUN)
    assert run.info.status == "FINISHED", "MLflow has it all the same"
    assert children["trial 1"].data.metrics == {"loss": 0.25}


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    yield


@pytest.mark.usefixtures("missing")
@pytest.mark.parametrize("track", [{"tensorboard": True}, {"wandb": {}}])
def test_a_service_whose_package_is_missing_is_refused_at_the_start(
    root: Root, track: dict[str, Any]
) -> None:
    (name,) = track
    with pytest.raises(SpecError, match=rf"track\.{name}.*pip install 'ftray\[{name}\]'"):
        trackers.check_tracking(with_keys(track=track), root)
