"""Runs that are killed, stopped, damaged or stuck: the same command resumes to the same weights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml

from ftray.train.run import Trained
from tests.helpers.external.processes import kill_with_children, train_workers
from tests.helpers.training.small_runs import losses, tree, wait_for, wait_for_step, weights


def start(spec: Path) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "FTRAY_STORAGE")}
    return subprocess.Popen(
        [sys.executable, "-m", "ftray", "train", str(spec), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    stdout, stderr = process.communicate(timeout=1500)
    assert process.returncode == code, stderr
    return stdout, stderr


def starts(run_dir: Path) -> list[dict[str, Any]]:
    """The `start` events of a run, one each time that workers began."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [e for e in map(json.loads, lines[:-1]) if e["kind"] == "start"]


def write(folder: Path, name: str, **sections: Any) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(tree(folder, storage=str(folder / name), **sections)))
    return path


def status(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "status.json").read_text())


def is_as_if_undisturbed(stdout: str, run_dir: Path, plain: Trained) -> None:
    """Checks the output and the files of a run's last command against the undisturbed run."""
    result = json.loads(stdout.splitlines()[-1])
    assert (result["run"], result["version"]) == (run_dir.name, 1)
    expected = weights(plain.version.folder.path)
    for name, value in weights(result["model_dir"]).items():
        assert torch.equal(value, expected[name]), name
    # Events on their way to a killed driver are not recorded.
    curve = losses(plain.run.location.path)
    found = losses(run_dir)
    assert all(curve[step] == loss for step, loss in found.items())
    assert len(found) > 0.8 * len(curve)
    assert result["metrics"]["test"] == plain.info.metrics["test"]


def test_a_killed_worker_and_a_killed_driver_change_no_weight(
    tmp_path: Path, plain: Trained
) -> None:
    spec = write(tmp_path, "cut", train={"checkpoint": {"every_steps": 4}})
    storage = tmp_path / "cut"

    # The test kills a worker in the middle of the first epoch (of 20 steps): new workers take over.
    process = start(spec)
    run_dir = wait_for_step(storage, 7)
    train_workers(psutil.Process(process.pid))[0].kill()
    wait_for(lambda: len(starts(run_dir)) == 2, "the workers that take over")
    assert starts(run_dir)[1]["step"] > 0, "from a checkpoint"

    # The test kills the driver while a checkpoint is being written, after the first epoch.
    wait_for_step(storage, 21)
    parts = run_dir / "checkpoints"
    wait_for(lambda: any(parts.glob(".part-*")), "a checkpoint that is being written")
    kill_with_children(process)
    assert not (storage / "models").exists()

    stdout, said = finish(start(spec))
    assert f"continuing run {run_dir.name}" in said
    is_as_if_undisturbed(stdout, run_dir, plain)


@pytest.mark.slow
def test_a_run_that_is_told_to_end_saves_first_and_a_torn_checkpoint_is_passed_over(
    tmp_path: Path, plain: Trained
) -> None:
    spec = write(tmp_path, "cut", train={"checkpoint": {"every_steps": 4}})
    process = start(spec)
    run_dir = wait_for_step(tmp_path / "cut", 23)
    process.send_signal(signal.SIGTERM)
    _, said = finish(process, code=130)
    assert "interrupted after step" in said
    assert "Traceback" not in said
    assert status(run_dir)["state"] == "interrupted"
    saved = sorted((run_dir / "checkpoints").glob("step-*"))[-1]
    assert int(saved.name.removeprefix("step-")) == max(losses(run_dir))

    # The test damages the newest checkpoint: the run must resume from the one before.
    torn = saved / "trainable.safetensors"
    torn.write_bytes(torn.read_bytes()[:-100])
    stdout, said = finish(start(spec))
    assert f"{saved.name} is damaged" in said
    is_as_if_undisturbed(stdout, run_dir, plain)


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_written_ends_all_ranks_at_once(tmp_path: Path) -> None:
    spec = write(
        tmp_path,
        "full",
        train={"epochs": 40, "trunk_cache": "off", "checkpoint": {"every_steps": 4}},
    )
    process = start(spec)
    run_dir = wait_for_step(tmp_path / "full", 3)
    checkpoints = run_dir / "checkpoints"
    checkpoints.rename(run_dir / "elsewhere")
    checkpoints.write_text("no folder")
    _, said = process.communicate(timeout=1500)
    assert process.returncode in (1, 2), said
    assert "on rank 0 (node" in said
    assert "not written" in said
    assert "Traceback" not in said
    assert len(starts(run_dir)) == 1, "another try would not mend it"


@pytest.mark.slow
def test_a_rank_that_hangs_ends_the_run_and_every_rank_says_where_it_stands(
    tmp_path: Path,
) -> None:
    spec = write(tmp_path, "stuck", scale={"workers": 2, "hang_minutes": 0.1})
    process = start(spec)
    run_dir = wait_for_step(tmp_path / "stuck", 3)
    stopped = train_workers(psutil.Process(process.pid))[0]
    stopped.send_signal(signal.SIGSTOP)
    before = time.monotonic()
    _, said = finish(process, code=1)
    assert time.monotonic() - before < 60
    assert "scale.hang_minutes" in said
    assert "does not answer at all" in said
    assert "ftray/train/loop.py" in said, "where the other one waits"
    assert status(run_dir)["state"] == "failed"
    assert not stopped.is_running() or stopped.status() == psutil.STATUS_ZOMBIE
