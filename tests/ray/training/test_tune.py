"""Sweeps on a real Ray Tune: the table, the winner, trials that cannot train, and worker groups."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray.util import placement_group_table

from ftray.errors import ClusterError, Interrupted
from ftray.models.artifact.manifest import read_info
from ftray.spec.load import parse
from ftray.train.check import check_inputs
from ftray.train.trunk_cache import build as trunk_build
from ftray.tune.sweep import Tuned, tune
from tests.helpers.external.mlflow_server import below
from tests.helpers.training.free_cpus import wait_for_free_cpus
from tests.helpers.training.small_runs import tree

pytestmark = pytest.mark.usefixtures("ray_cluster")

SPACE = {
    "train.learning_rate": {"loguniform": [1e-4, 1e-3]},
    "train.unfreeze": {"choice": [0, 1]},
    "train.epochs": {"choice": [1, 2]},
}


def sweep(
    folder: Path,
    listener: Callable[[dict[str, Any]], None] = lambda event: None,
    train: dict[str, Any] | None = None,
    **section: Any,
) -> Tuned:
    spec = tree(
        folder, name="sweep", train=train or {}, tune={"trials": 4, "space": SPACE, **section}
    )
    return tune(check_inputs(parse(spec)), listener=listener)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tune")


@pytest.fixture(scope="module")
def events() -> list[dict[str, Any]]:
    return []


TRAIN = {"baselines": True, "trunk_cache": "on"}


@pytest.fixture(scope="module")
def cut_off(ray_cluster: None, folder: Path) -> list[str]:
    """The trials that had ended when the sweep's driver was interrupted."""
    statuses: dict[str, str] = {}

    def cut(event: dict[str, Any]) -> None:
        if event["kind"] == "trial":
            statuses[event["id"]] = event["status"]
            if event["status"] != "running":
                raise Interrupted.of("run", "sweep", "interrupted", "the same command goes on")

    with pytest.raises(Interrupted), pytest.MonkeyPatch.context() as patch:
        # Fills the trunk cache in processes of its own, as on a cluster with more than this
        # machine.
        patch.setattr(trunk_build, "_is_here", lambda order: False)
        sweep(folder, cut, train=TRAIN)
    return [trial for trial, status in statuses.items() if status == "done"]


@pytest.fixture(scope="module")
def tuned(cut_off: list[str], folder: Path, events: list[dict[str, Any]]) -> Tuned:
    """The interrupted sweep, resumed: four trials from the trunk cache, and a refit."""
    return sweep(folder, events.append, train=TRAIN)


def test_the_winner_is_trained_again_and_registered_with_the_table(
    tuned: Tuned, cut_off: list[str], events: list[dict[str, Any]]
) -> None:
    best = [trial.metrics["best"] for trial in tuned.trials]
    assert best == sorted(best, reverse=True)
    assert len(tuned.trials) == 4
    assert {trial.status for trial in tuned.trials} <= {"done", "stopped"}
    assert {trial.trial for trial in tuned.trials} == {"1", "2", "3", "4"}
    again = {e["id"] for e in events if e["kind"] == "trial"}
    assert {"3", "4"} <= again, "they had not begun"
    # The listener also hears of the trials that ended before; the record has each trial once.
    recorded = [e for e in tuned.trained.run.metrics() if e["kind"] == "trial"]
    assert cut_off
    for trial in cut_off:
        told = [e["status"] for e in recorded if e["id"] == trial]
        assert told.count("running") == told.count("done") == 1, "what had ended is not run again"
    assert (tuned.trained.run.location / "report.html").is_file()
    assert {depth.unfreeze for depth in tuned.depths.depths} == {0, 1}
    for scratch in ("kept", "trials"):
        assert not (tuned.trained.run.location / scratch).exists()
    assert next(e for e in events if e["kind"] == "start")["workers"] == 2, "refit at full scale"
    assert [e["kind"] for e in events].count("baseline") == 1, "of the winner alone"
    info = read_info(tuned.trained.version.folder)
    assert info.baselines is not None
    assert info.baselines.over_majority["accuracy"].value > 0
    searched = sum(row["seconds"] for row in info.trials)
    hours = (searched + 2 * info.baselines.seconds) / 3600
    assert info.baselines.worker_hours == pytest.approx(hours), "the search included"
    assert [row["id"] for row in info.trials] == [trial.trial for trial in tuned.trials]
    winner = tuned.trials[0].config
    assert info.spec["train"]["learning_rate"] == winner["train.learning_rate"]
    assert info.spec["train"]["unfreeze"] == winner["train.unfreeze"]


def test_each_trial_is_a_run_in_mlflow_below_the_sweeps_which_has_the_winners_values(
    tuned: Tuned,
) -> None:
    parent, trials = in_mlflow(tuned)
    assert parent.info.status == "FINISHED"
    winner = tuned.trials[0]
    rate = parent.data.params["train.learning_rate"]
    assert float(rate) == winner.config["train.learning_rate"]
    assert tuned.trained.run.spec_tree()["train"]["learning_rate"] == float(rate)
    assert parent.data.params["scale.workers"] == "2", "the refit's"
    assert {
        "train/loss",
        "validation/f1_macro",
        "model/test/f1_macro",
    } <= parent.data.metrics.keys()
    assert trials.keys() == {f"trial {trial.trial}" for trial in tuned.trials}
    for trial in tuned.trials:
        shown = trials[f"trial {trial.trial}"]
        assert (shown.info.status, shown.data.tags["ended"]) == ("FINISHED", trial.status)
        for key, value in trial.config.items():
            assert shown.data.params[key] == str(value)
        assert {
            "train/loss",
            "train/learning_rate",
            "validation/f1_macro",
        } <= shown.data.metrics.keys()
        assert shown.data.metrics["trial/best"] == trial.metrics["best"]


def in_mlflow(tuned: Tuned) -> tuple[Any, dict[str, Any]]:
    """The MLflow run of the sweep, and the runs of its trials by name."""
    run = tuned.trained.run
    folder = Path(run.location.path).parents[2]
    return below(f"sqlite:///{folder}/registry.db", run.run_id)


@pytest.mark.slow
def test_the_same_trials_without_the_trunk_cache_and_without_a_refit(
    tuned: Tuned, folder: Path
) -> None:
    assert len(list((folder / "storage" / "cache" / "trunk").iterdir())) == 2, "one a depth"
    train = {"trunk_cache": "off"}
    again = sweep(folder, train=train, refit=False, scheduler="fifo")
    kept, plain = ({str(t.config): t for t in one.trials} for one in (tuned, again))
    assert kept.keys() == plain.keys(), "the same seed draws the same"
    losses = [
        [one[config].metrics["loss"] for config in plain if kept[config].status == "done"]
        for one in (kept, plain)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=0.02)
    assert losses[0] != losses[1], "bf16 states round"
    best = again.trials[0].metrics["best"]
    validation = again.trained.info.metrics["validation"]
    assert validation["f1_macro"] == pytest.approx(best, abs=1e-6), "the trial's very model"


@pytest.mark.slow
def test_a_trial_that_cannot_train_does_not_end_the_sweep(tmp_path: Path) -> None:
    space = {"train.unfreeze": {"choice": [0, 99]}, "train.epochs": {"choice": [1]}}
    tuned = sweep(tmp_path, trials=None, searcher="grid", refit=False, space=space)
    statuses = {t.config["train.unfreeze"]: t.status for t in tuned.trials}
    assert statuses == {0: "done", 99: "failed"}
    assert "6 blocks" in tuned.trials[-1].error


def test_a_trial_larger_than_the_cluster_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="tune.workers = 3"):
        sweep(tmp_path, workers=3, train={"micro_batch_size": 4})


@pytest.mark.slow
def test_trials_of_two_workers_leak_nothing(tmp_path: Path) -> None:
    space = {**SPACE, "train.epochs": {"choice": [1]}}
    tuned = sweep(tmp_path, trials=1, workers=2, refit=False, space=space)
    assert [trial.status for trial in tuned.trials] == ["done"]
    assert tuned.trained.info.metrics["test"]["accuracy"] > 0.5
    parent, trials = in_mlflow(tuned)
    told = trials["trial 1"].data.metrics
    assert told["train/loss"] > 0
    curve = {key: value for key, value in told.items() if not key.startswith("trial/")}
    assert curve.items() <= parent.data.metrics.items(), "without a refit the trial is the result"
    alive = [g for g in placement_group_table().values() if g["state"] != "REMOVED"]
    assert not alive
    wait_for_free_cpus(2)


@pytest.mark.slow
def test_the_worse_of_two_goes_on_from_the_better_ones_checkpoint(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    histories: dict[str, list[dict[str, Any]]] = {}

    def listen(event: dict[str, Any]) -> None:
        if event["kind"] == "trial":
            events.append(event)
            kept = tmp_path.glob(f"storage/runs/sweep/*/kept/{event['id']}/checkpoints/step-*")
            if event["status"] == "done":
                newest = max(kept, key=lambda folder: folder.name)
                histories[event["id"]] = json.loads((newest / "progress.json").read_text())[
                    "history"
                ]

    space = {"train.learning_rate": {"loguniform": [1e-5, 1e-3]}}
    section = {"scheduler": "pbt", "trials": 2, "refit": False, "space": space}
    tuned = sweep(tmp_path, listen, train={"epochs": 2}, **section)
    assert [trial.status for trial in tuned.trials] == ["done", "done"]
    first = {e["id"]: e for e in events if len(e["values"]) == 1 and e["status"] == "waiting"}
    worse, better = sorted(first, key=lambda trial: first[trial]["values"])
    (moved,) = {e["id"] for e in events if e["cloned"]}
    assert moved == worse
    assert histories[worse][0]["loss"] == first[better]["metrics"]["loss"]
    rates = {trial.trial: trial.config["train.learning_rate"] for trial in tuned.trials}
    assert rates[worse] / rates[better] == pytest.approx(0.8) or (
        rates[worse] == pytest.approx(min(1.2 * rates[better], 1e-3))
    )
