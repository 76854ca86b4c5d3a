"""`ftray models ...` and `ftray runs ...` as a user types them, on a real storage root."""

from __future__ import annotations

import filecmp
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer import Typer
from typer.testing import CliRunner, Result

from ftray.cli import models, runs
from ftray.errors import RegistryError, RunTaken
from ftray.models.artifact.manifest import ModelInfo
from ftray.models.artifact.publish import finish, place
from ftray.spec.load import override, parse
from ftray.store.deployments.promotion import promote, roll_back, try_out
from ftray.store.files.location import locate
from ftray.store.registry.registry import Registry
from ftray.store.root import Root
from ftray.store.runs.folder import RunFolder, list_runs
from tests.helpers.external.object_store import ObjectStore

SPEC = parse({"name": "reviews", "model": {"name_or_path": "bert"}, "data": {"train": "a.csv"}})
RUNS = ("20260101-000000-aaaaaa", "20260102-000000-bbbbbb", "20260103-000000-cccccc")

app = Typer()
app.add_typer(models.app, name="models")
app.add_typer(runs.app, name="runs")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Root:
    """Two trained runs, the first in production, and a run that failed after two epochs."""
    folder = tmp_path_factory.mktemp("models") / "data"
    root = Root(locate(str(folder)))
    for number, run_id in enumerate(RUNS):
        spec = override(SPEC, {"train.epochs": 2 + number})
        run = RunFolder.create(root, spec, run_id)
        for epoch, value in ((1, 0.6), (2, 0.5)):
            run.append_metrics({"kind": "step", "step": epoch, "loss": 0.1})
            run.append_metrics({"kind": "epoch", "epoch": epoch, "step": 9, "f1_macro": value})
        if number == 2:
            run.set_status(state="failed", message="the loss is nan")
            continue
        metrics = {"accuracy": 0.8 + number / 100, "f1_macro": 0.7, "confused": []}
        info = ModelInfo(
            name="reviews",
            run=run_id,
            task=spec.task,
            labels=("neg", "pos"),
            max_length=64,
            base=spec.model,
            data_digest="d" * 16,
            spec=spec.model_dump(mode="json"),
            metrics={"validation": metrics, "test": metrics},
            golden=(),
            ftray_version="0",
        )
        staging = folder.parent / f"staging-{number}"
        staging.mkdir()
        (staging / "model.safetensors").write_bytes(bytes(range(256)))
        target = root.models("reviews") / run_id
        finish(place(staging, info, target), target)
        version = Registry(root).register(
            "reviews", target, run_id, {"accuracy": metrics["accuracy"]}, {"spec_digest": "s1"}
        )
        run.set_status(state="done", model=version.name, version=version.version)
    promote(Registry(root), "reviews:1", "production")
    return root


@pytest.fixture(autouse=True)
def _environment(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTRAY_STORAGE", str(root))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def ftray(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def answer(*arguments: str) -> dict[str, Any]:
    result = ftray(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert isinstance(found, dict)
    return found


def test_models_list(root: Root) -> None:
    listed = answer("models", "list")["models"]
    assert [(m["model"], m["version"], m["aliases"]) for m in listed] == [
        ("reviews", 1, ["production"]),
        ("reviews", 2, []),
    ]
    assert listed[1]["run"] == RUNS[1]
    assert listed[1]["model_dir"] == str(root.models("reviews") / RUNS[1])
    lines = ftray("models", "list", "reviews").stdout.splitlines()
    assert lines[0].split("\t")[:4] == ["model", "version", "aliases", "accuracy"]
    assert lines[1].split("\t")[:4] == ["reviews", "1", "production", "0.8000"]


def test_models_show_says_where_a_model_comes_from(root: Root) -> None:
    shown = answer("models", "show", "reviews@production")
    assert (shown["version"], shown["run"], shown["data_digest"]) == (1, RUNS[0], "d" * 16)
    assert shown["lineage"]["spec_digest"] == "s1"
    assert shown["base"]["name_or_path"] == "bert"
    assert shown["labels"] == ["neg", "pos"]
    assert shown["metrics"]["test"]["accuracy"] == 0.8
    by_folder = answer("models", "show", shown["model_dir"])
    assert (by_folder["model"], by_folder["version"]) == ("reviews", None)
    assert "accuracy\t0.8100\t0.8100" in ftray("models", "show", "reviews").stdout


def test_models_promote_moves_an_alias(root: Root) -> None:
    assert answer("models", "promote", "reviews:1", "--alias", "canary")["version"] == 1
    assert answer("models", "promote", "reviews", "--alias", "canary")["aliases"] == ["canary"]
    assert answer("models", "show", "reviews:1")["aliases"] == ["production"]


def test_models_export_copies_the_whole_folder(root: Root, tmp_path: Path) -> None:
    out = tmp_path / "there" / "it goes"
    result = answer("models", "export", "reviews", "--out", str(out))
    assert result == {"model": "reviews", "version": 2, "out": str(out)}
    source = Path((root.models("reviews") / RUNS[1]).path)
    names = sorted(path.name for path in source.iterdir())
    assert sorted(path.name for path in out.iterdir()) == names
    assert filecmp.cmpfiles(source, out, names, shallow=False)[0] == names
    assert answer("models", "show", str(out))["model"] == "reviews"
    again = ftray("models", "export", "reviews:1", "--out", str(out))
    assert again.exit_code == 2
    assert "is not empty" in again.stderr
    assert filecmp.cmpfiles(source, out, names, shallow=False)[0] == names
    inside = ftray("models", "export", str(out), "--out", str(out / "inner"))
    assert inside.exit_code == 2
    assert not (out / "inner").exists()


def test_runs_list_and_show() -> None:
    listed = answer("runs", "list")["runs"]
    assert [(run["run"], run["state"], run["version"]) for run in listed] == [
        (RUNS[0], "done", 1),
        (RUNS[1], "done", 2),
        (RUNS[2], "failed", None),
    ]
    lines = ftray("runs", "list", "reviews").stdout.splitlines()
    assert lines[3].split("\t")[:4] == [RUNS[2], "reviews", "train", "failed"]
    # A run without a model shows its best epoch's metric and no test metric.
    assert lines[3].split("\t")[5:] == ["f1_macro", "0.6000", "-", "-"]
    failed = answer("runs", "show", "reviews")
    assert (failed["run"], failed["message"]) == (RUNS[2], "the loss is nan")
    assert [epoch["f1_macro"] for epoch in failed["epochs"]] == [0.6, 0.5]
    assert failed["spec"]["train"]["epochs"] == 4
    assert "the loss is nan" in ftray("runs", "show", RUNS[2]).stdout


def test_runs_compare_says_only_what_differs() -> None:
    compared = answer("runs", "compare", *RUNS)
    assert compared["spec"] == {"train.epochs": [2, 3, 4]}
    assert compared["metrics"]["test.accuracy"] == [0.8, 0.81, None]
    assert compared["metrics"]["validation.f1_macro"] == [0.7, 0.7, 0.6]
    assert "train.epochs\t2\t3" in ftray("runs", "compare", RUNS[0], RUNS[1]).stdout


def test_runs_compare_sweeps_by_what_won(tmp_path: Path) -> None:
    root = Root(locate(str(tmp_path)))
    space = {"train.learning_rate": {"choice": [1e-5, 1e-4]}}
    plain = RunFolder.create(root, SPEC, "20260101-000000-dddddd")
    plain.set_status(state="done")
    for run_id, rate, trials in zip(RUNS, (1e-5, 1e-4, None), (4, 4, 8), strict=True):
        sweep = parse({**SPEC.model_dump(mode="json"), "tune": {"space": space, "trials": trials}})
        run = RunFolder.create(root, sweep, run_id, "tune")
        if rate is not None:
            run.write_spec(override(sweep, {"train.learning_rate": rate}))
            run.set_status(state="done", model="reviews", version=1)

    def compared(*runs: str) -> Any:
        return answer("runs", "compare", *runs, "--storage", str(tmp_path))["spec"]

    assert compared(*RUNS[:2]) == {"train.learning_rate": [1e-5, 1e-4]}
    assert compared(*RUNS[1:]) == {
        "train.learning_rate": [1e-4, "searched"],
        "tune.trials": [4, 8],
    }, "of the last one nobody knows what wins"
    assert compared(RUNS[1], plain.run_id) == {"train.learning_rate": [1e-4, 2e-5]}


def test_runs_show_a_sweeps_trials(tmp_path: Path) -> None:
    root = Root(locate(str(tmp_path)))
    run = RunFolder.create(root, SPEC, RUNS[0], "tune")
    trial = {"kind": "trial", "id": "t1", "status": "failed", "seconds": 1.0, "metrics": {}}
    run.append_metrics({**trial, "config": {"train.epochs": 1}})
    done = {"status": "done", "metrics": {"best": 0.9}}
    run.append_metrics({**trial, **done, "config": {"train.epochs": 1}})
    lines = ftray("runs", "show", RUNS[0], "--storage", str(tmp_path)).stdout.splitlines()
    assert lines[-2:] == [
        "trial\tstatus\tbest\ttrain.epochs\tseconds",
        "t1\tdone\t0.9000\t1\t1.0000",
    ]


def test_no_trial_of_a_sweep_that_ended_is_said_to_run(tmp_path: Path) -> None:
    root = Root(locate(str(tmp_path)))
    run = RunFolder.create(root, SPEC, RUNS[0], "tune")
    for name, status in (("1", "done"), ("2", "running"), ("3", "waiting")):
        trial = {"kind": "trial", "id": name, "status": status, "seconds": 1.0}
        run.append_metrics({**trial, "metrics": {"memory": 1_234_567_890}, "config": {}})
    run.set_status(state="interrupted")
    lines = ftray("runs", "show", RUNS[0], "--storage", str(tmp_path)).stdout.splitlines()
    rows = [line.split("\t") for line in lines[-3:]]
    assert [row[1] for row in rows] == ["done", "interrupted", "paused"]
    assert {row[-1] for row in rows} == {"1.2 GB"}


def test_prune_says_what_it_would_remove(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "reviews" / RUNS[0]
    folder.mkdir(parents=True)
    os.utime(folder, (1, 1))
    arguments = ("runs", "prune", "--storage", str(tmp_path))
    assert answer(*arguments, "--dry-run")["dry_run"] is True
    assert folder.exists()
    assert [item["folder"] for item in answer(*arguments)["removed"]] == [str(folder)]
    assert not folder.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("models", "list", "review"), "Did you mean reviews?"),
        (("models", "show", "reviews:9"), "Versions of reviews: 1@production, 2"),
        (("models", "show", "./nowhere"), "no such folder"),
        (("models", "promote", "nobody", "--alias", "a"), "Models here: reviews"),
        (("models", "promote", "reviews", "--alias", "two words"), "not a name for an alias"),
        (("models", "export", "nobody", "--out", "x"), "Models here: reviews"),
        (("runs", "show", "2026"), "means several runs"),
        (("runs", "show", "nobody"), "`ftray runs list` shows all"),
        (("runs", "compare", RUNS[0]), "a comparison needs two"),
        (("runs", "compare", RUNS[0], "nobody"), "no such run"),
    ],
)
def test_a_wrong_name_is_exit_2_and_one_line(arguments: tuple[str, ...], message: str) -> None:
    result = ftray(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


def test_an_empty_root_has_no_models_and_gets_no_files(tmp_path: Path) -> None:
    for verb in ("models", "runs"):
        assert answer(verb, "list", "--storage", str(tmp_path / "none")) == {verb: []}
    assert not (tmp_path / "none").exists()


def test_the_verbs_are_part_of_ftray_and_import_nothing_heavy() -> None:
    code = (
        "import sys; from ftray.cli import models, runs; "
        "print([m for m in ('mlflow', 'pyarrow', 'pydantic', 'rich', 'torch') if m in sys.modules])"
    )
    light = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert light.stdout.strip() in ("[]", "['rich']")  # typer itself may import rich
    command = [sys.executable, "-m", "ftray", "models", "list", "--json"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert listed.returncode == 0, listed.stderr
    assert len(json.loads(listed.stdout)["models"]) == 2
    assert listed.stderr == ""


def test_deleting_asks_and_keeps_what_is_in_use(tmp_path: Path) -> None:
    root = Root(locate(str(tmp_path / "data")))
    storage = f"--storage={root}"
    registry = Registry(root)
    for number in (1, 2, 3, 4):
        folder = root.models("m") / f"2026010{number}-000000-aaaaaa"
        (folder / "ftray.json").write_json({"name": "m"})
        registry.register("m", folder, folder.name, {"accuracy": 0.5})
    promote(registry, "m:1", "live")
    promote(registry, "m:2", "live")
    try_out(registry, "m:3", "live", 0.1, shadow=False)

    for wrong, message in (
        ("m:2", "points to"),
        ("m:3", "on trial beside live"),
        ("m", "which version"),
        ("m@live", "which version"),
        ("m:9", "no version 9"),
        ("n:1", "no such model"),
    ):
        refused = ftray("models", "delete", wrong, "--yes", storage)
        assert refused.exit_code == 2 and message in refused.stderr, wrong
    assert ftray("models", "delete", "m:4", "m:2", "--yes", storage).exit_code == 2
    assert [v.version for v in registry.versions("m")] == [1, 2, 3, 4]

    unasked = ftray("models", "delete", "m:4", storage)
    assert unasked.exit_code == 2 and "--yes" in unasked.stderr
    only_said = ftray("models", "delete", "m:4", "--dry-run", storage)
    assert only_said.exit_code == 0 and "would delete m:4" in only_said.stderr
    assert [v.version for v in registry.versions("m")] == [1, 2, 3, 4]

    gone = answer("models", "delete", "m:4", "m:1", "--yes", storage)
    assert gone["deleted"] == ["m:4", "m:1"]
    assert [v.version for v in registry.versions("m")] == [2, 3]
    assert [f.name[7] for f in root.models("m").children()] == ["2", "3"]
    # A version number is not used twice, and no rollback leads to a deleted version.
    again = root.models("m") / "20260105-000000-aaaaaa"
    (again / "ftray.json").write_json({"name": "m"})
    assert registry.register("m", again, again.name, {}).version == 5
    roll_back(registry, "m", "live")
    with pytest.raises(RegistryError, match="has always been version 2"):
        roll_back(registry, "m", "live")


def old_run(root: Root, number: int, **status: Any) -> RunFolder:
    run = RunFolder.create(root, SPEC, f"2026010{number}-000000-aaaaaa")
    (run.location / "checkpoints" / "step-1" / "file").write_text("12345")
    run.set_status(**status)
    return run


@pytest.mark.parametrize("where", ["local", "s3"])
def test_runs_are_deleted_by_name_and_by_age(
    where: str, tmp_path: Path, object_store: ObjectStore
) -> None:
    url = str(tmp_path / "data") if where == "local" else object_store.url("root")
    root, storage = Root(locate(url)), f"--storage={url}"
    old, new = "2020-01-01T00:00:00+00:00", datetime.now(UTC).isoformat()
    old_run(root, 1, state="done", updated=old)
    old_run(root, 2, state="interrupted", updated=old)
    old_run(root, 3, state="failed", updated=new)
    living = old_run(root, 4, updated=old)

    told = ftray("runs", "prune", "--older-than", "30d", "--dry-run", storage)
    assert told.exit_code == 0, told.stderr
    assert told.stderr.count("would delete") == 2
    assert "done" in told.stderr and "interrupted" in told.stderr
    unasked = ftray("runs", "prune", "--older-than", "30d", storage)
    assert unasked.exit_code == 2 and "--yes" in unasked.stderr
    assert len(list_runs(root)) == 4
    for wrong in ("30", "d", "-3d", "3 days", "²d", "99999999d"):
        refused = ftray("runs", "prune", f"--older-than={wrong}", storage)
        assert refused.exit_code == 2 and f"--older-than = {wrong}" in refused.stderr
    pruned = answer("runs", "prune", "--older-than", "30d", "--yes", storage)
    assert len(pruned["deleted"]) == 2
    assert [run.run_id[7] for run in list_runs(root)] == ["3", "4"]

    driven = ftray("runs", "delete", living.run_id, "--yes", storage)
    assert driven.exit_code == 1 and "is being driven by" in driven.stderr
    living.set_status(state="interrupted")
    deleted = answer("runs", "delete", "20260103", living.run_id, "--yes", storage)
    assert len(deleted["deleted"]) == 2
    assert not (root.runs() / "reviews").exists()
    with pytest.raises(RunTaken, match="was deleted"):
        living.set_status(state="done")
    assert not (root.runs() / "reviews").exists()
