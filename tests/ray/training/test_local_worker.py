"""One worker on this machine: a process that starts ahead and trains without Ray Train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest

from ftray.errors import RunFailed
from ftray.spec.load import parse
from ftray.train.check import check_inputs
from ftray.train.ray.local_worker import LocalWorker
from ftray.train.run import train
from tests.helpers.training.small_runs import Events, losses, train_here, tree


def spec(folder: Path, **scale: Any) -> dict[str, Any]:
    checkpoint = {"every_steps": 4}
    return tree(
        folder,
        train={"epochs": 1, "baselines": True, "checkpoint": checkpoint},
        scale={"workers": 1, **scale},
    )


def process() -> psutil.Process:
    """The worker's process, among the children of the Ray instance inside this process."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if child.cmdline()[0].startswith("ray::_Process"):
                found.append(child)
        except (psutil.Error, IndexError):
            continue
    assert len(found) == 1, found
    return found[0]


def test_a_process_that_dies_is_replaced_and_the_run_goes_on(
    ray_cluster: None, tmp_path: Path
) -> None:
    events: Events = []
    killed: list[int] = []

    def kill_once(event: dict[str, Any]) -> None:
        if event["kind"] == "step" and event["step"] >= 6 and not killed:
            killed.append(event["step"])
            process().kill()
        if event.get("name") == "exporting: evaluating on the test split" and len(killed) == 1:
            killed.append(0)
            process().kill()

    trained = train_here(spec(tmp_path), events, kill_once)
    starts = [event for event in events if event["kind"] == "start"]
    assert [event["workers"] for event in starts] == [1, 1]
    assert starts[1]["step"] >= 4, "from a checkpoint"
    assert len(killed) == 2, "after the training nothing trains again"
    assert max(losses(trained.run.location.path)) == 20
    assert {"majority", "probe"} <= set(trained.to_json()["metrics"]["baselines"])
    stages = [event["name"] for event in events if event["kind"] == "stage"]
    assert stages[0] == "encoding the rows"
    assert stages[-1] == "registering the model"
    kept = [record["name"] for record in trained.run.metrics() if record["kind"] == "stage"]
    assert {"encoding the rows", "registering the model"} <= set(kept) <= set(stages)


@pytest.mark.slow
def test_a_process_that_may_not_die_ends_the_run_in_one_line(
    ray_cluster: None, tmp_path: Path
) -> None:
    checked = check_inputs(parse(spec(tmp_path, max_failures=0)))
    worker = LocalWorker.of(checked.spec)
    assert worker is not None

    def kill(event: dict[str, Any]) -> None:
        if event["kind"] == "step":
            process().kill()

    with pytest.raises(RunFailed, match="its process ended"):
        train(checked, listener=kill, worker=worker)


def test_groups_and_clusters_are_ray_trains(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = parse(tree(tmp_path, scale={"workers": 2}))
    one = parse(tree(tmp_path, scale={"workers": 1}))
    assert LocalWorker.of(two) is None
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert LocalWorker.of(one) is None
