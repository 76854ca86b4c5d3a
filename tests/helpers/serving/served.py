"""Runs `ftray serve` in a process of its own."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def quiet_port() -> int:
    """A free port that the system gives to no connection of another process.

    Tests need such a port when clients try it long before a server listens there.
    """
    while True:
        port = random.randrange(10_000, 20_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def ftray_serve(model: str | Path, port: int, *options: str) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    return subprocess.Popen(
        [sys.executable, "-m", "ftray", "serve", str(model), f"--port={port}", "--json", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


@contextmanager
def served(model: str | Path, *options: str) -> Iterator[tuple[str, int]]:
    """Yields the URL of the served model and the id of the serving process."""
    process = ftray_serve(model, quiet_port(), *options)
    assert process.stdout is not None and process.stderr is not None
    try:
        announced = process.stdout.readline()
        assert announced, process.stderr.read()
        yield json.loads(announced)["url"], process.pid
    finally:
        process.terminate()
        process.communicate(timeout=180)
