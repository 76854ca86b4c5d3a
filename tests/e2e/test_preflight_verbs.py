"""`ftray validate` and `ftray doctor` as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.helpers.training.small_runs import tree


def ftray(*arguments: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    ours = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "FTRAY_STORAGE")}
    return subprocess.run(
        [sys.executable, "-m", "ftray", *map(str, arguments)],
        cwd=cwd,
        env={**ours, **env},
        capture_output=True,
        text=True,
        timeout=240,
    )


def validate(folder: Path, **train: Any) -> dict[str, Any]:
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(tree(folder, train=train)))
    run = ftray("validate", path, "--json", cwd=folder)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_validate_foresees_memory_and_writes_nothing(tmp_path: Path) -> None:
    found = validate(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl", "spec.yaml"]
    memory = found["estimate"]["memory"]
    assert memory["stage"] == 2
    assert memory["micro_batch_size"] == 8
    host = memory["host"]
    assert host["total"] == sum(count for name, count in host.items() if name != "total")
    # MiniLM has 22.7 million weights, here in full precision.
    assert 90e6 < host["weights"] < 92e6
    assert memory["fits"] is True
    assert memory["options"] == []


def test_validate_says_what_would_fit(tmp_path: Path) -> None:
    """The micro-batch has two million rows, more than any machine holds."""
    run = validate(tmp_path, batch_size=1 << 22, micro_batch_size=1 << 21)
    memory = run["estimate"]["memory"]
    assert memory["fits"] is False
    for option in memory["options"]:
        assert option["host"]["total"] <= memory["available"]["host"]
        assert all(key.startswith("train.") for key in option["set"])
    assert any("train.micro_batch_size" in option["set"] for option in memory["options"])


def test_validate_refuses_what_the_run_would(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(tree(tmp_path, train={"unfreeze": 12})))
    run = ftray("validate", path, "--json", cwd=tmp_path)
    assert run.returncode == 2, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["ok"] is False
    (problem,) = found["problems"]
    assert (problem["key"], problem["value"]) == ("train.unfreeze", "12")
    assert "6 blocks" in problem["problem"]


def test_doctor_finds_this_machine(tmp_path: Path) -> None:
    run = ftray("doctor", "--json", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["ok"] is True
    states = {finding["what"]: finding["state"] for finding in found["findings"]}
    assert states["torch"] == states["storage"] == states["MLflow"] == states["memory"] == "ok"
    assert all(finding["cost"] for finding in found["findings"] if finding["state"] != "ok")
    assert list(tmp_path.iterdir()) == []


def test_doctor_fails_where_nothing_can_be_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    run = ftray("doctor", "--storage", tmp_path / "file" / "root", cwd=tmp_path)
    assert run.returncode == 1
    (line,) = [line for line in run.stdout.splitlines() if line.startswith("storage")]
    assert "broken" in line
    assert "Traceback" not in run.stderr


def test_doctor_and_train_say_alike_that_no_ray_can_start(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 90)
    folder.mkdir()
    long = {"TMPDIR": str(folder), "RAY_TMPDIR": str(folder)}
    run = ftray("doctor", "--json", cwd=tmp_path, **long)
    assert run.returncode == 1
    findings = json.loads(run.stdout.splitlines()[-1])["findings"]
    (ray,) = [finding for finding in findings if finding["what"] == "Ray"]
    assert ray["state"] == "broken"
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump(tree(tmp_path)))
    train = ftray("train", spec, cwd=tmp_path, **long)
    assert train.returncode == 1
    assert ray["value"] in train.stderr
    assert "Traceback" not in train.stderr


def test_doctor_fails_where_no_cluster_answers(tmp_path: Path) -> None:
    run = ftray("doctor", "--json", cwd=tmp_path, RAY_ADDRESS="127.0.0.1:1")
    assert run.returncode == 1
    findings = json.loads(run.stdout.splitlines()[-1])["findings"]
    (ray,) = [finding for finding in findings if finding["what"] == "Ray"]
    assert ray["state"] == "broken"
    assert "127.0.0.1:1" in ray["value"]
