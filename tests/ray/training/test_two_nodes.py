"""Jobs on a cluster of two nodes, started by the shipped script, with token authentication."""

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
from typing import Any

import psutil
import pytest
import yaml

from ftray.cluster import environment
from tests.helpers.external.object_store import ObjectStore
from tests.helpers.training.small_runs import losses, tree, wait_for, wait_for_step

REPOSITORY = Path(__file__).parents[3]
SCRIPT = REPOSITORY / "cluster" / "two-nodes.sh"
Environment = dict[str, str]
STEPS_OF_AN_EPOCH = 20


def _free_ports(count: int) -> list[str]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [str(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


# On the second node one folder is empty and another one is read-only.
ENTER = """#!/bin/bash
exec unshare {user} --mount bash -c '
mount -t tmpfs none {lacking} && mount --bind {fixed} {fixed} && mount -o remount,bind,ro {fixed}
exec "$@"' enter "$@"
"""


@pytest.fixture(scope="module")
def lacking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is empty on the second node."""
    return tmp_path_factory.mktemp("lacking")


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the second node cannot write to."""
    return tmp_path_factory.mktemp("fixed")


@pytest.fixture(scope="module")
def sees_other_files(lacking: Path, fixed: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The command that runs the second node with its own view of the file system.

    Empty if this machine allows no such view.
    """
    user = "" if os.geteuid() == 0 else "--map-root-user"
    file = tmp_path_factory.mktemp("bin") / "enter"
    file.write_text(ENTER.format(user=user, lacking=lacking, fixed=fixed))
    file.chmod(0o700)
    return str(file) if subprocess.run([file, "true"], capture_output=True).returncode == 0 else ""


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, sees_other_files: str
) -> Iterator[Environment]:
    """Starts the cluster and gives the environment variables for its users' commands."""
    folder = Path(f"/tmp/ftray-{os.getpid()}")
    gcs, dashboard, client = _free_ports(3)
    shell = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "CLUSTER_DIR": str(folder),
        "GCS_PORT": gcs,
        "DASHBOARD_PORT": dashboard,
        "CLIENT_PORT": client,
        "SECOND_NODE_IN": sees_other_files,
        "START_TIMEOUT": "1200",
        "STOP_TIMEOUT": "3",
        # Shortens Ray's detection of a lost node to seconds. Ray Train asks for the node until
        # then, and by default for a minute more.
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_failure_threshold": "2",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "8",
        "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5",
        "FTRAY_STORAGE": str(tmp_path_factory.mktemp("storage")),
    }
    said = subprocess.run([SCRIPT, "start"], env=shell, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    exports = dict(re.findall(r"export (\w+)=(\S+)", said.stdout))
    yield shell | exports
    subprocess.run([SCRIPT, "stop"], env=shell, check=True, capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)


def start(*command: str, cwd: Path, env: Environment) -> subprocess.Popen[str]:
    out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, cwd=cwd, env=env, text=True, **out)


def run(*command: str, cwd: Path, env: Environment) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=1500)


def raylet(cluster: Environment, node: str) -> psutil.Process:
    """The raylet process of a node: killing it ends the node."""
    folder = str(Path(cluster["CLUSTER_DIR"]) / node)
    for process in psutil.process_iter(["name", "cmdline"]):
        if process.info["name"] == "raylet" and any(folder in a for a in process.info["cmdline"]):
            return process
    raise AssertionError(f"no raylet of {node}")


def write_spec(folder: Path, **sections: Any) -> Path:
    spec = tree(folder, **sections)
    del spec["storage"]
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


@pytest.mark.slow
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


def wait_for_both_nodes(cluster: Environment) -> None:
    """Waits until no job holds a CPU.

    Otherwise an elastic run would begin with one worker while an ended job still holds a node.
    """
    helper = "tests.helpers.training.free_cpus"
    code = f"import ray; from {helper} import *; ray.init(); wait_for_free_cpus(2)"
    said = run(sys.executable, "-c", code, cwd=REPOSITORY, env=cluster)
    assert said.returncode == 0, said.stderr


def second_node(cluster: Environment, digits: int | None = 8) -> str:
    """Ray's id of the second node: the first `digits` digits, or all."""
    said = run(SCRIPT, "status", "--format=json", cwd=REPOSITORY, env=cluster)
    (node,) = [node for node in json.loads(said.stdout) if not node["is_head_node"]]
    return node["node_id"][:digits]


def drain(cluster: Environment, node: str) -> None:
    """Drains a node with a preemption notice, like a cloud that takes a spot node away."""
    command = ("ray", "drain-node", "--address", cluster["RAY_ADDRESS"], "--node-id", node)
    command += ("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot")
    command += ("--deadline-remaining-seconds", "20")
    said = run(*command, cwd=REPOSITORY, env=cluster)
    assert said.returncode == 0, said.stderr


def step_of_checkpoint_within_an_epoch(run_dir: Path) -> int | None:
    """The step of the checkpoint that a preemption notice caused, if there is one.

    All other checkpoints are saved at the end of an epoch.
    """
    manifests = (run_dir / "checkpoints").glob("step-*/manifest.json")
    steps = (int(manifest.parent.name.removeprefix("step-")) for manifest in manifests)
    return next((step for step in steps if step % STEPS_OF_AN_EPOCH), None)


@pytest.mark.parametrize("fault", ["base", pytest.param("storage", marks=pytest.mark.slow)])
def test_what_one_node_lacks_ends_the_run_and_names_the_node(
    cluster: Environment,
    sees_other_files: str,
    lacking: Path,
    fixed: Path,
    tmp_path: Path,
    model_folder: Path,
    fault: str,
) -> None:
    if not sees_other_files:
        pytest.skip("no mount namespaces here")
    sections: dict[str, Any] = {}
    shell = dict(cluster)
    if fault == "base":
        shutil.copytree(model_folder, lacking / "base")
        sections["model"] = {"name_or_path": str(lacking / "base")}
        begins, exit_code = f"model.name_or_path = {lacking / 'base'}", 2
    else:
        shell["FTRAY_STORAGE"] = begins = str(fixed)
        exit_code = 1
    spec = write_spec(tmp_path, **sections)
    # If one rank failed alone, the others would wait until torch's half-hour timeout.
    said = run(sys.executable, "-m", "ftray", "train", str(spec), cwd=tmp_path, env=shell)
    assert said.returncode == exit_code, said.stderr
    (line,) = [line for line in said.stderr.splitlines() if line.startswith(begins)]
    assert f"id {second_node(cluster)}" in line
    assert "Traceback" not in said.stderr


@pytest.mark.slow
def test_a_deepspeed_file_need_not_be_on_every_node(
    cluster: Environment, sees_other_files: str, lacking: Path, tmp_path: Path
) -> None:
    if not sees_other_files:
        pytest.skip("no mount namespaces here")
    (lacking / "zero.json").write_text('{"zero_optimization": {"stage": 2}}')
    spec = write_spec(tmp_path, train={"deepspeed": str(lacking / "zero.json"), "epochs": 1})
    said = run(sys.executable, "-m", "ftray", "train", str(spec), cwd=tmp_path, env=cluster)
    assert said.returncode == 0, said.stderr
    assert "workers: 2, nodes: 2" in said.stderr


LISTED = """
from ray.job_submission import JobSubmissionClient
from ray.util import state
print(JobSubmissionClient().list_jobs())
for listed in (state.list_jobs, state.list_runtime_envs, state.list_workers, state.list_actors):
    print(listed(detail=True, limit=1000))
print(state.list_tasks(detail=True, limit=1000, raise_on_missing_output=False))
"""
"""Prints all that Ray shows to everybody with access to the cluster."""


@pytest.mark.slow
def test_a_submitted_job_has_the_access_of_its_user_and_ray_lists_none_of_it(
    cluster: Environment, object_store: ObjectStore, tmp_path: Path
) -> None:
    secret = "secret-that-nobody-reads"
    access = object_store.environment | {
        "AWS_SECRET_ACCESS_KEY": secret,
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
    }
    write_spec(tmp_path, data={"train": "rows.jsonl"}, train={"epochs": 1})
    ftray = [sys.executable, "-m", "ftray", "submit", "train", "spec.yaml", "--json"]
    ftray += ["--set", f"storage={object_store.bare_url()}"]
    said = run(*ftray, cwd=tmp_path, env=cluster | access)
    assert said.returncode == 0, said.stdout + said.stderr
    (result,) = re.findall(r'^\{"run".*\}$', said.stdout, re.MULTILINE)
    assert json.loads(result)["model_dir"].startswith(object_store.bare_url())
    listed = run(sys.executable, "-c", LISTED, cwd=tmp_path, env=cluster)
    assert "ftray" in listed.stdout, listed.stderr
    assert secret not in said.stdout + said.stderr + listed.stdout
    files = Path(cluster["CLUSTER_DIR"]).rglob("*")
    assert not [file for file in files if file.name == environment.FILE], "left on a node"


@pytest.mark.slow
def test_a_run_saves_before_a_node_is_taken_away_and_goes_on_without_it(
    cluster: Environment, tmp_path: Path
) -> None:
    elastic = {"workers": {"min": 1, "max": 2}}
    train = {"checkpoint": {"every_steps": 1000}, "epochs": 6}
    write_spec(tmp_path, data={"train": "rows.jsonl"}, scale=elastic, train=train)
    wait_for_both_nodes(cluster)
    node = second_node(cluster, digits=None)
    storage = tmp_path / "shared"
    ftray = (sys.executable, "-m", "ftray", "submit", "train", "spec.yaml", "--json")
    job = start(*ftray, "--set", f"storage={storage}", cwd=tmp_path, env=cluster)
    run_dir = wait_for_step(storage, 3)
    drain(cluster, node)
    step = wait_for(lambda: step_of_checkpoint_within_an_epoch(run_dir), "a checkpoint")
    raylet(cluster, "n2").kill()
    said, _ = job.communicate(timeout=1500)
    assert job.returncode == 0, said
    assert "workers: 2, nodes: 2" in said
    assert f"node {node[:8]} is taken away in" in said
    assert f"resumed after step {step}" in said
    assert "workers: 1, nodes: 1" in said
    assert list(losses(run_dir)) == list(range(1, 6 * STEPS_OF_AN_EPOCH + 1))
    (result,) = re.findall(r'^\{"run".*\}$', said, re.MULTILINE)
    assert Path(json.loads(result)["model_dir"]).is_relative_to(storage)
