"""What every request passes: the limit on its body, the model's name on its answer, counting."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ftray.serve.metrics import Metrics

PREDICT = "/v1/predict"


@dataclass
class Gate:
    """ASGI middleware around the application."""

    app: ASGIApp
    headers: dict[str, str]
    """Added to every answer."""
    metrics: Metrics
    paths: Collection[str]
    """Those that are counted by name; any other is counted as `other`."""
    max_body: int
    """Bytes."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500
        extra = [(name.encode(), value.encode()) for name, value in self.headers.items()]

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *extra]
            await send(message)

        try:
            await self.app(scope, self._limited(scope, receive), send_named)
        finally:
            path = scope["path"]
            self.metrics.count_request(path if path in self.paths else "other", status)
            if path == PREDICT and status == 200:
                self.metrics.count_prediction(time.perf_counter() - start)

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        """`receive`, which raises an HTTP error 413 once the body is longer than allowed, or says
        beforehand that it will be."""
        announced = dict(scope["headers"]).get(b"content-length", b"")
        size = int(announced) if announced.isdigit() else 0
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if max(size, received) > self.max_body:
                limit = f"{self.max_body:,} bytes a request is the limit"
                raise HTTPException(413, f"the body is too long: {limit}")
            return message

        return limited
