"""`ftray serve` as a user runs it: a process of its own, with its own Ray inside."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
from ray import serve
from typer.testing import CliRunner

from ftray.cli.main import app
from ftray.cli.serve import STOPPING
from tests.helpers.models.tiny_model import tamper
from tests.helpers.serving.served import free_port, ftray_serve

Process = subprocess.Popen[str]


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Process]]:
    """Processes that the fixture ends after the test, also after a failure."""
    processes: list[Process] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            process.terminate()
            process.wait(180)


def begin(started: list[Process], folder: Path, port: int) -> Process:
    started.append(ftray_serve(folder, port))
    return started[-1]


def test_serves_until_sigterm_and_leaves_nothing(
    started: list[Process], model_folder: Path, port: int
) -> None:
    process = begin(started, model_folder, port)
    assert process.stdout is not None
    announced = json.loads(process.stdout.readline())
    assert announced == {"url": f"http://127.0.0.1:{port}", "model": "tiny", "version": None}
    answer = httpx.post(f"{announced['url']}/v1/predict", json={"inputs": "dull"})
    assert answer.json()["model"] == "tiny"
    family = psutil.Process(process.pid).children(recursive=True)
    assert family, "Ray runs in processes of its own"
    heard = set()
    for member in family:
        with suppress(psutil.NoSuchProcess):  # while HAProxy reloads, two of its processes run
            if member.name() == "haproxy":
                connections = member.net_connections()
                heard |= {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN}
    assert heard == {"127.0.0.1"}, "nobody else reaches its pages of figures"
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=180)
    assert process.returncode == 0
    assert stdout == "", "the JSON object is the last line"
    # On a busy machine Ray Serve and `ftray serve` report that starting takes long.
    slow = re.compile(r"taken more than|  \(for \d+ s\)$")
    told = [line for line in stderr.splitlines() if not slow.search(line)]
    assert told == [
        "starting Ray …",
        "starting Ray Serve …",
        "loading tiny …",
        f"tiny answers at {announced['url']}/v1/predict",
        "stop with Ctrl-C",
        STOPPING,
    ]
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))


@pytest.mark.slow
def test_the_last_replica_goes_while_nobody_asks_and_comes_back(
    started: list[Process], model_folder: Path, port: int, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    manifest = json.loads((folder / "ftray.json").read_text())
    manifest["spec"]["serve"]["replicas"] = {"min": 0, "max": 1, "idle_seconds": 1}
    (folder / "ftray.json").write_text(json.dumps(manifest))
    process = begin(started, folder, port)
    assert process.stdout is not None
    url = json.loads(process.stdout.readline())["url"]

    def replicas() -> list[psutil.Process]:
        family = psutil.Process(process.pid).children(recursive=True)
        return [p for p in family if p.is_running() and p.name().startswith("ray::ServeRepl")]

    asked = {"inputs": "dull"}
    before = httpx.post(f"{url}/v1/predict", json=asked).json()
    assert len(replicas()) == 1, "it proved the model"
    end = time.monotonic() + 180
    while replicas():
        assert time.monotonic() < end, "it stays"
        time.sleep(0.2)
    after = httpx.post(f"{url}/v1/predict", json=asked, timeout=60)
    assert (after.status_code, after.json()) == (200, before)


@pytest.mark.slow
def test_a_proxy_that_is_slow_to_start_is_waited_for(
    started: list[Process], model_folder: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray Serve gives up on the first proxies, because no proxy starts within this short time."""
    monkeypatch.setenv("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "1")
    process = begin(started, model_folder, port)
    assert process.stdout is not None
    url = json.loads(process.stdout.readline())["url"]
    assert httpx.post(f"{url}/v1/predict", json={"inputs": "dull"}, timeout=60).status_code == 200


@pytest.mark.slow
def test_a_model_that_answers_otherwise_is_refused(
    ray_cluster: None, model_folder: Path, port: int, tmp_path: Path
) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(model_folder, changed)
    tamper(changed)
    done = CliRunner().invoke(app, ["serve", str(changed), f"--port={port}", "--json"])
    assert (done.exit_code, done.stdout) == (2, "")
    error = done.stderr.splitlines()[-1]
    assert error.startswith("golden answers of tiny = A wonderful film.: a probability is off")
    assert "Traceback" not in done.stderr
    assert not serve.status().applications


def test_a_port_in_use_is_said_before_ray_starts(
    started: list[Process], model_folder: Path, tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = begin(started, model_folder, port)
        stdout, stderr = process.communicate(timeout=180)
    assert (process.returncode, stdout) == (2, "")
    assert stderr == (
        f"--port = {port}: in use on 127.0.0.1. "
        "Stop what listens there, or name another port with --port.\n"
    )


def test_a_folder_that_is_no_model_is_said_before_ray_starts(
    started: list[Process], port: int, tmp_path: Path
) -> None:
    process = begin(started, tmp_path, port)
    _, stderr = process.communicate(timeout=180)
    assert process.returncode == 2
    assert "not an ftray model folder: it has no ftray.json" in stderr
    assert len(stderr.splitlines()) == 1
