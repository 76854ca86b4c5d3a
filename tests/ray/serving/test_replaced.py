"""Ray replaces a replica whose model hangs; until then the replica reports that it is unhealthy."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from ray import serve

from ftray.serve import app
from ftray.serve.deployment import Hosted
from tests.helpers.serving.served import free_port

LIMIT_S = 1.0
SETTINGS = {
    "batch": {"timeout_seconds": LIMIT_S, "hung_seconds": 2.0},
    "cpus_per_replica": 0.5,
    "auth": False,
}


@pytest.fixture
def client(
    ray_cluster: None, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[httpx.Client]:
    class Spoilable(Hosted):
        """A replica whose model a test can make hang."""

        def hang(self) -> None:
            (live,) = self._replica._catalog.current
            live.loaded.outputs_of = lambda examples: time.sleep(3600)

    monkeypatch.setattr(app, "Hosted", Spoilable)
    port = free_port()
    try:
        serve.start(proxy_location="HeadOnly", http_options={"port": port})
        serve.run(app.build({"model": str(model_folder), **SETTINGS}), name="reviews")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield client
    finally:
        serve.shutdown()


@pytest.mark.slow
def test_a_replica_that_hangs_is_replaced(client: httpx.Client) -> None:
    def ask() -> httpx.Response:
        return client.post("/v1/predict", json={"inputs": "dull"})

    def replicas() -> set[Any]:
        page = client.get("/metrics").text
        return {
            line.split('replica="')[1].split('"')[0] for line in page.splitlines() if "_up{" in line
        }

    assert ask().status_code == 200
    before = replicas()
    serve.get_deployment_handle("tiny", "reviews").hang.remote().result()
    began = time.monotonic()
    refused = ask()
    assert time.monotonic() - began < LIMIT_S + 2
    assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
    told = set()
    end = time.monotonic() + 180
    while replicas() == before or ask().status_code != 200:
        told.add(client.get("/healthz").status_code)
        assert time.monotonic() < end
        time.sleep(0.5)
    assert 503 in told
    assert client.get("/healthz").status_code == 200
