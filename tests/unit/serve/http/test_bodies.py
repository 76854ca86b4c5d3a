"""How much may be uploaded at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from starlette.exceptions import HTTPException
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope

from ftray.serve.http.app import create_api
from ftray.serve.http.bodies import Bodies
from ftray.serve.ops.metrics import Metrics
from tests.helpers.serving.fake_backend import FakeBackends

SCOPE: Scope = {"type": "http", "headers": []}


def body(size: int) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": b"a" * size, "more_body": True}

    return receive


def test_all_bodies_together_are_limited_until_their_requests_end() -> None:
    bodies = Bodies(each=60, together=100)

    async def run() -> None:
        with ExitStack() as first, bodies.limited(SCOPE, body(30)) as second:
            receive = first.enter_context(bodies.limited(SCOPE, body(30)))
            await receive()
            await second()
            await second()
            with pytest.raises(HTTPException) as refused:
                await receive()
            assert refused.value.status_code == 503
            assert refused.value.headers == {"retry-after": "5"}
            first.close()
            with bodies.limited(SCOPE, body(30)) as third:
                await third()
            with pytest.raises(HTTPException) as refused:
                await second()
            assert refused.value.status_code == 413

    asyncio.run(run())
    assert bodies._held == 0  # noqa: SLF001


def test_streams_that_hold_too_much_are_refused_and_other_requests_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ftray.serve.http.app.MAX_TOGETHER", 3000)

    def lines(count: int) -> Iterator[bytes]:
        for _ in range(count):
            yield b'"dull"\n'

    with TestClient(create_api(FakeBackends(), Metrics("one"))) as client:
        for _ in range(2):
            large = client.post("/v1/predict/stream", content=lines(1000))
            assert (large.status_code, large.headers["retry-after"]) == (503, "5")
            assert "uploaded" in large.json()["error"]["message"]
            assert client.post("/v1/predict", json={"inputs": "dull"}).status_code == 200
            small = client.post("/v1/predict/stream", content=lines(100))
            assert (small.status_code, len(small.text.splitlines())) == (200, 100)
