"""Ctrl-C and SIGTERM: the command acknowledges them at once and ends, whatever it waits for."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ftray.interrupt import TERM_S
from tests.helpers.training.small_runs import tree

PATIENCE_S = 240.0


@pytest.fixture
def silent_server() -> Iterator[str]:
    """The address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def start(spec: Path, server: str = "") -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "FTRAY_STORAGE")}
    if server:
        environment["MLFLOW_TRACKING_URI"] = server
    return subprocess.Popen(
        [sys.executable, "-m", "ftray", "train", str(spec)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def read_until(process: subprocess.Popen[str], word: str) -> str:
    """The first stderr line with this word. Kills the process if none comes in time."""
    assert process.stderr is not None
    alarm = threading.Timer(PATIENCE_S, process.kill)
    alarm.start()
    try:
        for line in process.stderr:
            if word in line:
                return line
    finally:
        alarm.cancel()
    raise AssertionError(f"no line with {word!r} came")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_that_never_answers_keeps_no_command(
    number: int, silent_server: str, tmp_path: Path
) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump(tree(tmp_path, scale={"workers": 1})))
    process = start(spec, silent_server)
    read_until(process, "reading the data")
    time.sleep(1.0)
    process.send_signal(number)
    began = time.monotonic()
    assert "the same command goes on" in read_until(process, "stopping: ")
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    # The process ends itself within TERM_S; a busy machine may take longer.
    assert time.monotonic() - began < TERM_S + 60
    assert not list((tmp_path / "storage").glob("runs/*/*")), "nothing had begun"
