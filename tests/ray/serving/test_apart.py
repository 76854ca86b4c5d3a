"""Two services on one machine, each with its own Ray: neither answers for the other."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from tests.helpers.models.tiny_model import make_model
from tests.helpers.serving.served import ftray_serve, quiet_port, served


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    names = "first", "second"
    return [Path(make_model(tmp_path / name, name).path) for name in names]


@contextmanager
def watched(port: int) -> Iterator[set[str]]:
    """Collects the names of the models that answer at this port inside the block."""
    seen: set[str] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            for method, path in (("GET", "/healthz"), ("POST", "/v1/predict")):
                try:
                    url = f"http://127.0.0.1:{port}{path}"
                    answer = httpx.request(method, url, json={"inputs": "dull"}, timeout=5)
                except httpx.HTTPError:
                    continue
                if answer.status_code == 200:
                    seen.add(answer.json()["model"])
            time.sleep(0.05)

    threads = [threading.Thread(target=watch) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        over.set()
        for thread in threads:
            thread.join()


@pytest.mark.slow
def test_a_service_that_starts_or_lost_its_replica_is_not_answered_for(
    folders: list[Path],
) -> None:
    port = quiet_port()
    with served(folders[0]) as (url, _), watched(port) as seen:
        second = ftray_serve(folders[1], port)
        try:
            assert second.stdout is not None and second.stderr is not None
            announced = second.stdout.readline()
            assert announced, second.stderr.read()
            assert json.loads(announced)["model"] == "second"
            (replica,) = _replicas(second)
            replica.kill()
            end = time.monotonic() + 180
            while not _replicas(second) or _health(port) != 200:
                assert time.monotonic() < end
                time.sleep(0.1)
            assert httpx.get(f"{url}/healthz").json()["model"] == "first"
        finally:
            second.terminate()
            second.communicate(timeout=180)
    assert seen == {"second"}


def _replicas(process: subprocess.Popen[str]) -> list[psutil.Process]:
    family = psutil.Process(process.pid).children(recursive=True)
    return [p for p in family if p.is_running() and p.name().startswith("ray::ServeRepl")]


def _health(port: int) -> int:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=5).status_code
    except httpx.HTTPError:
        return 0
