"""A real MLflow tracking server on loopback that can be killed and started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

_START_S = 240  # the first start creates the tables, which takes minutes on a busy machine


class MlflowServer:
    """An MLflow server whose log lies in `folder`, and its database unless another one is named."""

    def __init__(self, folder: Path, database: str = "") -> None:
        self.folder, self.port = folder, free_port()
        self._database = database or f"sqlite:///{folder}/server.db"
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--workers=1", f"--port={self.port}"]
        command += [f"--backend-store-uri={self._database}"]
        command += [f"--default-artifact-root={self.folder}/artifacts"]
        with (self.folder / "server.log").open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            )
        end = time.monotonic() + _START_S
        while not self._answers():
            assert time.monotonic() < end, (self.folder / "server.log").read_text()
            time.sleep(0.1)

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def runs(self) -> list[Any]:
        """All runs, as MLflow's client returns them."""
        return all_runs(self.uri)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "server.log").read_text()
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def all_runs(uri: str) -> list[Any]:
    """All runs in the database or on the server at this URI."""
    from ftray.store.database import import_quietly

    client = import_quietly()(uri, uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiments))


def below(uri: str, run_name: str) -> tuple[Any, dict[str, Any]]:
    """The run with this name, and its child runs by name."""
    runs = all_runs(uri)
    (parent,) = [run for run in runs if run.info.run_name == run_name]
    trials = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    names = [run.info.run_name for run in trials]
    assert len(names) == len(set(names)), "none twice"
    return parent, dict(zip(names, trials, strict=True))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
