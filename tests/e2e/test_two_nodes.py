"""Jobs on a cluster of two nodes, started by the script that we ship, with token authentication."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.helpers.small_runs import tree, weights

REPOSITORY = Path(__file__).parents[2]
SCRIPT = REPOSITORY / "cluster" / "two-nodes.sh"
Environment = dict[str, str]


def _free_ports(count: int) -> list[str]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [str(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    """The environment in which a user of the running cluster types commands."""
    folder = Path(f"/tmp/ftray-{os.getpid()}")
    gcs, dashboard, client = _free_ports(3)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "CLUSTER_DIR": str(folder),
        "GCS_PORT": gcs,
        "DASHBOARD_PORT": dashboard,
        "CLIENT_PORT": client,
        "START_TIMEOUT": "150",
        "STOP_TIMEOUT": "3",
        "FTRAY_STORAGE": str(tmp_path_factory.mktemp("storage")),
    }
    said = subprocess.run([SCRIPT, "start"], env=environment, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    exports = dict(re.findall(r"export (\w+)=(\S+)", said.stdout))
    yield environment | exports
    subprocess.run([SCRIPT, "stop"], env=environment, check=True, capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)


def run(*command: str, cwd: Path, env: Environment) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=280)


def write_spec(folder: Path, **sections: object) -> Path:
    spec = tree(folder, **sections)  # type: ignore[arg-type]
    del spec["storage"]
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


def test_ftray_submit_carries_what_the_spec_names_and_trains_over_both_nodes(
    cluster: Environment, tmp_path: Path
) -> None:
    spec = yaml.safe_load(write_spec(tmp_path, name="carried").read_text())
    spec["data"]["train"] = "rows.jsonl"
    (tmp_path / "here.yaml").write_text(yaml.safe_dump(spec))
    ftray = (sys.executable, "-m", "ftray", "submit", "train", "here.yaml", "--json")
    job = run(*ftray, "--set", "train.epochs=1", cwd=tmp_path, env=cluster)
    assert job.returncode == 0, job.stdout + job.stderr
    assert "workers: 2, nodes: 2" in job.stdout + job.stderr
    (result,) = re.findall(r'^\{"run".*\}$', job.stdout, re.MULTILINE)
    assert json.loads(result)["model"] == "carried"
    folder = Path(json.loads(result)["model_dir"])
    assert folder.is_relative_to(cluster["FTRAY_STORAGE"])
    assert weights(folder)


def test_a_job_of_the_repository_exits_as_the_command_does(
    cluster: Environment, tmp_path: Path
) -> None:
    spec = write_spec(tmp_path, scale={"workers": 16}, train={"micro_batch_size": 1})
    submit = ("ray", "job", "submit", "--working-dir", ".", "--")
    job = run(*submit, "python", "jobs/train.py", str(spec), cwd=REPOSITORY, env=cluster)
    assert job.returncode == 1, "as Ray says it"
    assert "scale.workers = 16" in job.stdout
    assert "exit code 2" in job.stdout + job.stderr


def test_without_the_token_the_cluster_says_what_is_missing(
    cluster: Environment, tmp_path: Path
) -> None:
    stranger = {k: v for k, v in cluster.items() if k != "RAY_AUTH_MODE"} | {"HOME": str(tmp_path)}
    ftray = (sys.executable, "-m", "ftray", "submit", "train", str(write_spec(tmp_path)))
    job = run(*ftray, cwd=tmp_path, env=stranger | {"RAY_AUTH_MODE": "disabled"})
    assert job.returncode == 2
    assert "Traceback" not in job.stderr
    assert "RAY_AUTH_MODE=token" in job.stderr
