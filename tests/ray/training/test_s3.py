"""Training and sweeps on an S3 root with an MLflow server, while the store keeps failing."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

from ftray.cluster.connection import session
from ftray.models.artifact.named import find_named
from ftray.models.load import load_model
from ftray.spec.load import parse
from ftray.store.deployments.promotion import promote
from ftray.store.registry.registry import Registry
from ftray.store.root import open_root
from ftray.train.check import check_inputs
from ftray.train.run import Trained
from ftray.tune.sweep import tune
from tests.helpers.external.mlflow_server import MlflowServer, below
from tests.helpers.external.object_store import Fault, ObjectStore
from tests.helpers.training.small_runs import train_here, tree, weights

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(autouse=True)
def _tracked(mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)


@pytest.mark.slow
def test_a_run_ends_as_on_a_disk_although_the_store_goes_away(
    plain: Trained,
    object_store: ObjectStore,
    mlflow_server: MlflowServer,
    tmp_path: Path,
) -> None:
    """Three faults of the store hit one run.

    During the steps the store is stopped for longer than pyarrow's own retries last. After the
    first epoch it answers 503. Before the export it cuts uploads off.
    """
    troubles: dict[str, Any] = {
        "step 5": lambda: object_store.stopped(seconds=10),
        "epoch 1": lambda: object_store.failing(Fault.BUSY, seconds=8),
        "epoch 3": lambda: object_store.failing(Fault.CUT_UPLOADS, seconds=8),
    }
    threads = []

    def trouble(event: dict[str, Any]) -> None:
        begun = troubles.pop(f"{event['kind']} {event.get(event['kind'])}", None)
        if begun is not None:
            threads.append(threading.Thread(target=_go_through, args=(begun(),)))
            threads[-1].start()

    changes = {"baselines": True, "checkpoint": {"every_steps": 4}}
    spec = tree(tmp_path, storage=object_store.spec_url(), train=changes)
    spec["data"]["train"] = plain.info.spec["data"]["train"]
    # MLflow prints when a run ends; inside a session nothing is printed.
    with session():
        trained = train_here(spec, listener=trouble)
    for thread in threads:
        thread.join()
    object_store.mend()
    assert troubles == {}, "all of them came"
    with trained.version.folder.as_local() as folder:
        ours, theirs = weights(folder), weights(plain.version.folder.path)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    steps = [record["step"] for record in trained.run.metrics() if record["kind"] == "step"]
    assert steps == list(range(1, len(steps) + 1)), "each is on record once"
    (run,) = [run for run in mlflow_server.runs() if run.info.run_name == trained.run.run_id]
    assert run.info.status == "FINISHED"
    _is_served(object_store, trained)


def _go_through(trouble: AbstractContextManager[None]) -> None:
    with trouble:
        pass  # the fault ends by itself


def _is_served(store: ObjectStore, trained: Trained) -> None:
    """Finds the model by an alias and checks its golden answers."""
    registry = Registry(open_root(store.url()))
    promote(registry, trained.version.reference, "production")
    found = find_named(f"{trained.version.name}@production", store.url())
    assert found.version == trained.version.version
    load_model(found.folder).check_golden()


@pytest.mark.slow
def test_a_sweep_on_s3(
    object_store: ObjectStore, mlflow_server: MlflowServer, tmp_path: Path
) -> None:
    space = {"train.learning_rate": {"choice": [1e-4, 5e-4]}, "train.epochs": {"choice": [1]}}
    section = {"trials": 2, "space": space, "refit": False}
    train = {"trunk_cache": "on"}
    spec = tree(tmp_path, name="sweep", storage=object_store.spec_url(), train=train, tune=section)
    tuned = tune(check_inputs(parse(spec)))
    assert len(tuned.trials) == 2
    load_model(tuned.trained.version.folder).check_golden()
    assert object_store.keys("root/cache/trunk/")
    parent, trials = below(mlflow_server.uri, tuned.trained.run.run_id)
    assert {name: run.info.status for name, run in trials.items()} == {
        "trial 1": "FINISHED",
        "trial 2": "FINISHED",
    }
    assert parent.data.metrics["train/loss"] > 0, "of the winner, which was not trained again"
