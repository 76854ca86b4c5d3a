"""A killed driver: the same command goes on with the same run, to the same weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml

from tests.helpers.small_runs import losses, tree, weights


def start(spec: Path) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "FTRAY_STORAGE")}
    return subprocess.Popen(
        [sys.executable, "-m", "ftray", "train", str(spec), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def finish(process: subprocess.Popen[str]) -> tuple[dict[str, Any], str]:
    stdout, stderr = process.communicate(timeout=280)
    assert process.returncode == 0, stderr
    return json.loads(stdout.splitlines()[-1]), stderr


def wait_for_epoch(storage: Path, epoch: int) -> Path:
    """The run folder, as soon as a step of that epoch is on record."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        for file in storage.glob("runs/*/*/metrics.jsonl"):
            events = [json.loads(line) for line in file.read_text().splitlines() if line[-1] == "}"]
            if any(e["kind"] == "step" and e["epoch"] == epoch for e in events):
                return file.parent
        time.sleep(0.05)
    raise AssertionError(f"epoch {epoch} was never reached")


def kill_with_children(process: subprocess.Popen[str]) -> None:
    """SIGKILL for the driver first, as a lost machine would, then for the Ray inside it."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    for member in family:
        if member.is_running():
            member.kill()
    psutil.wait_procs(family, timeout=20)


def write(folder: Path, name: str) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(tree(folder, storage=str(folder / name))))
    return path


def test_the_same_command_continues_a_killed_run_to_the_same_weights(tmp_path: Path) -> None:
    expected, _ = finish(start(write(tmp_path, "uninterrupted")))
    spec = write(tmp_path, "killed")
    process = start(spec)
    run_dir = wait_for_epoch(tmp_path / "killed", epoch=3)
    kill_with_children(process)
    assert not (tmp_path / "killed" / "models").exists()

    result, said = finish(start(spec))
    assert f"continuing run {run_dir.name}" in said
    assert result["run"] == run_dir.name
    assert result["version"] == 1
    assert losses(run_dir) == losses(expected["run_dir"])
    found = weights(result["model_dir"])
    for name, value in weights(expected["model_dir"]).items():
        assert torch.equal(value, found[name]), name
    for metrics in (result["metrics"], expected["metrics"]):
        for key in ("seconds", "worker_hours"):
            assert metrics["baselines"].pop(key) > 0
    assert result["metrics"] == expected["metrics"]
    (resumed,) = [
        event
        for event in map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
        if event["kind"] == "start" and event["epoch"] > 0
    ]
    assert resumed["step"] > 0, "it did not begin at the start again"
