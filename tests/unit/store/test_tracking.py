"""Runs in MLflow: SQLite, a real tracking server that dies and comes back, and ones that do not."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ftray.store.database import import_quietly, open_client
from ftray.store.deployments.promotion import promote
from ftray.store.files.location import locate
from ftray.store.registry.registry import Registry
from ftray.store.root import Root
from ftray.store.tracking import mlflow_tracker as tracking
from ftray.store.tracking.base import flatten
from ftray.store.tracking.mlflow_tracker import MlflowTracker
from tests.helpers.external.mlflow_server import MlflowServer, all_runs, below, free_port


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    # Its import is no part of what these tests time.
    import_quietly()


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's tables are made within that on a busy machine too."""
    monkeypatch.setattr(tracking, "_LOCAL_PATIENCE", 300.0)
    monkeypatch.setattr(tracking, "_LONGEST_CLOSE", 300.0)
    monkeypatch.setattr(tracking, "_KILLED_CLOSE", 300.0)


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(locate(str(tmp_path / "data")))


def stored(uri: str, run_name: str) -> Any:
    """The one MLflow run of that name, with its run id."""
    (run,) = [run for run in all_runs(uri) if run.info.run_name == run_name]
    return run


def points(uri: str, run_name: str, metric: str) -> list[tuple[int, float]]:
    client = import_quietly()(uri, uri)
    history = client.get_metric_history(stored(uri, run_name).info.run_id, metric)
    return sorted((point.step, point.value) for point in history)


def database(root: Root) -> str:
    return f"sqlite:///{root.registry_database.path}"


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.05)


def test_a_run_in_sqlite(root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = MlflowTracker(root, "sweep", "reviews")
    sweep.run.tag({"run_dir": "runs/reviews/sweep"})
    trial = sweep.child("trial-1")
    trial.parameters({"odd=name": "x" * 9000, **{f"key{n}": n for n in range(150)}})
    for step in range(600):
        sweep.run.log(step, {"step/loss": 1 / (step + 1), "step/learning rate": 1e-4})
    trial.log(1, {"f1@k": 0.5, "loss": float("nan")})
    sweep.run.parameters(flatten({"train": {"epochs": 3, "deepspeed": {"stage": 2}}, "empty": {}}))
    sweep.close()
    run = stored(database(root), "sweep")
    assert run.info.status == "FINISHED"
    assert run.data.params == {"train.epochs": "3", "train.deepspeed.stage": "2", "empty": "{}"}
    assert run.data.tags["run_dir"] == "runs/reviews/sweep"
    expected = [(step, 1 / (step + 1)) for step in range(600)]
    assert points(database(root), "sweep", "step/loss") == expected
    child = stored(database(root), "trial-1")
    assert child.info.status == "KILLED"
    assert child.data.tags["mlflow.parentRunId"] == run.info.run_id
    assert child.data.metrics["f1_k"] == 0.5
    assert child.data.params["key149"] == "149"
    assert [path.name for path in tmp_path.iterdir()] == ["data"]  # no ./mlruns


def test_a_resumed_run_goes_on_in_the_mlflow_run_it_had(root: Root) -> None:
    for step, status in ((1, "KILLED"), (2, "FINISHED")):
        tracker = MlflowTracker(root, "run-1", "reviews")
        tracker.run.parameters({"epochs": 2})
        tracker.run.log(step, {"loss": float(step)})
        tracker.close(status)  # type: ignore[arg-type]
    assert stored(database(root), "run-1").info.status == "FINISHED"
    assert points(database(root), "run-1", "loss") == [(1, 1.0), (2, 2.0)]


def test_one_thread_sends_all_children_and_forgets_those_that_ended(root: Root) -> None:
    tracker, before = MlflowTracker(root, "sweep", "reviews"), threading.active_count()
    for number in range(20):
        child = tracker.child(f"trial {number}")
        child.log(1, {"loss": float(number)})
        child.end("FINISHED")
    assert threading.active_count() <= before
    until(lambda: len(tracker._runs) == 1)
    tracker.close()
    runs = below(database(root), "sweep")[1].values()
    assert len(runs) == 20
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert sum(run.data.metrics["loss"] for run in runs) == sum(range(20))


def test_a_child_that_another_process_ended_is_neither_doubled_nor_ended_again(root: Root) -> None:
    ends = []
    for _ in range(2):
        tracker = MlflowTracker(root, "sweep", "reviews")
        for name, status in (("trial 1", "FINISHED"), ("trial 2", None)):
            child = tracker.child(name)
            child.log(1, {"loss": 0.5})
            if status:
                child.end("FINISHED")
        tracker.close("KILLED")
        _, found = below(database(root), "sweep")
        assert {name: run.info.status for name, run in found.items()} == {
            "trial 1": "FINISHED",
            "trial 2": "KILLED",
        }
        assert len(points(database(root), "trial 1", "loss")) == 1
        ends.append({name: run.info.end_time for name, run in found.items()})
    assert ends[0]["trial 1"] == ends[1]["trial 1"]
    assert ends[0]["trial 2"] < ends[1]["trial 2"]


def test_a_child_deleted_by_its_user_holds_nothing_up(
    root: Root, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = MlflowTracker(root, "sweep", "reviews")
    child, other = tracker.child("trial 1"), tracker.child("trial 2")
    child.log(1, {"loss": 0.5})
    until(lambda: not child.points)
    open_client(root).delete_run(stored(database(root), "trial 1").info.run_id)
    for step in (2, 3):
        child.log(step, {"loss": 0.5})
        until(lambda: not child.points)
    child.end("FINISHED")
    other.log(1, {"loss": 0.5})
    other.end("FINISHED")
    tracker.close()
    assert stored(database(root), "trial 2").info.status == "FINISHED"
    assert stored(database(root), "sweep").info.status == "FINISHED"
    assert len(caplog.records) == 1


def test_a_server_that_refuses_costs_nothing_and_is_said_once(
    root: Root, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr(tracking, "_RETRY_AFTER", 0.1)
    seconds = log_and_close(root, pause=1.0)
    assert seconds < 30, "less than what MLflow itself would wait"
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 2
    assert "Connection refused" in warnings[0]
    assert "100 points" in warnings[1]


def test_a_server_that_never_answers_costs_two_seconds(
    root: Root, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepted: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    accepted.append(listener.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        port = listener.getsockname()[1]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        seconds = log_and_close(root, pause=0.5)
        assert accepted
        assert seconds < 30, "less than what MLflow itself would wait"
        assert "no answer" in caplog.records[0].getMessage()


def log_and_close(root: Root, pause: float) -> float:
    """Log 100 points over `pause` seconds; the seconds of it all beyond that."""
    started = time.monotonic()
    tracker = MlflowTracker(root, "run-1", "reviews")
    for step in range(100):
        tracker.run.log(step, {"loss": 1.0})
        time.sleep(pause / 100)
    tracker.close()
    return time.monotonic() - started - pause


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path)
    server.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    yield server
    server.kill()


@pytest.mark.slow
def test_a_server_that_dies_and_comes_back(
    root: Root,
    server: MlflowServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Points that could not be sent arrive later, while the run goes on, and none is lost or
    doubled. The registry on the same server finds models by paths below the root."""
    monkeypatch.setattr(tracking, "_RETRY_AFTER", 0.2)
    _register_and_find(root, server)
    tracker = MlflowTracker(root, "run-1", "reviews")
    tracker.run.log(1, {"loss": 1.0})
    until(lambda: not tracker.run.points)
    server.kill()
    tracker.run.log(2, {"loss": 2.0})
    until(lambda: bool(caplog.records))
    tracker.run.log(3, {"loss": 3.0})
    server.start()
    until(lambda: not tracker.run.points)
    assert points(server.uri, "run-1", "loss") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert stored(server.uri, "run-1").info.status == "RUNNING"
    tracker.run.log(4, {"loss": 4.0})
    tracker.close()
    assert points(server.uri, "run-1", "loss")[3:] == [(4, 4.0)]
    assert stored(server.uri, "run-1").info.status == "FINISHED"
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1
    assert not root.registry_database.exists()


def _register_and_find(root: Root, server: MlflowServer) -> None:
    # A model of another tool on the same server is none of ftray's.
    other = import_quietly()(server.uri, server.uri)
    other.create_registered_model("theirs")
    other.create_model_version("theirs", "s3://bucket/model")
    registry = Registry(root)
    registry.check()
    for number in (1, 2, 2):
        folder = root.models("reviews") / f"20260101-000000-aaaaa{number}"
        (folder / "ftray.json").write_json({"name": "reviews"})
        registry.register("reviews", folder, folder.name, {"accuracy": 0.5}, {"data_digest": "d"})
    assert promote(registry, "reviews:1", "production").model.aliases == ("production",)
    found = registry.resolve("reviews@production")
    assert (found.version, found.metrics, found.lineage["data_digest"]) == (
        1,
        {"accuracy": 0.5},
        "d",
    )
    assert registry.resolve("reviews").version == 2
    assert registry.names() == ["reviews"]
