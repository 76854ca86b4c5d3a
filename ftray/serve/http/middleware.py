"""The ASGI middleware of every request: refuses requests (`Door`), limits their bodies, adds the
model's name to the answers, counts requests and logs their API keys."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ftray.serve.http.bodies import Bodies
from ftray.serve.http.door import KEY, Door
from ftray.serve.interface import MODEL_HEADER, VERSION_HEADER, Backends, named
from ftray.serve.models.version_router import CALLER, CALLER_HEADER
from ftray.serve.ops.log import logger
from ftray.serve.ops.metrics import Metrics
from ftray.serve.protocols.errors import CHAT, COMPLETIONS, fault
from ftray.serve.protocols.oip.routes import INFER
from ftray.serve.protocols.predict import PREDICT

_NO_SNIFFING = (b"x-content-type-options", b"nosniff")
_log = logger(__name__)


def route_path(scope: Scope) -> str:
    """Return a request's path below the application's root: without Serve's route_prefix, and
    without the prefix that a proxy has cut off and that Serve's root_path names."""
    path, root = scope["path"], scope.get("root_path", "").rstrip("/")
    within = path == root or path.startswith(f"{root}/")
    return path[len(root) :] or "/" if within else path


@dataclass
class Gate:
    """ASGI middleware around the application."""

    app: ASGIApp
    backends: Backends
    """The served models. Every answer has the name and version of a model in its headers: those of
    the first model where the request was for none."""
    metrics: Metrics
    paths: Collection[str]
    """Paths that the metrics count by name."""
    prefixes: Collection[str]
    """The metrics count all paths with the same prefix together, and any other path as `other`."""
    bodies: Callable[[str], Bodies]
    """Path -> the limits on request bodies."""
    door: Door
    max_requests: float
    """Requests in hand at once from which on more are refused."""
    unlimited: Collection[str]
    """Paths that are answered however many requests are in hand."""
    in_hand: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500
        who = named(self.backends.entries[0])

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                told = {name.decode("latin-1"): value for name, value in message["headers"]}
                who.update((name, told[name].decode()) for name in who if name in told)
                missing = [(n.encode(), v.encode()) for n, v in who.items() if n not in told]
                message["headers"] = [*message["headers"], *missing, _NO_SNIFFING]
            await send(message)

        headers = dict(scope["headers"])
        CALLER.set(headers.get(CALLER_HEADER.encode(), b"").decode("latin-1"))
        path = route_path(scope)
        app = self.door.refusal(scope, path) or self._busy(path) or self.app
        self.in_hand += 1
        try:
            with self.bodies(path).limited(scope, receive) as limited:
                await app(scope, limited, send_named)
        finally:
            self.in_hand -= 1
            known = path if path in self.paths else self._family(path)
            answered_by = who[MODEL_HEADER], who[VERSION_HEADER]
            self.metrics.count_request(*answered_by, known, status)
            if name := scope.get(KEY):
                # Serve's own log line of a request does not have the API key.
                _log.info("%s %s %d", scope["method"], known, status, extra={"api_key": name})
            if status == 200 and path.endswith((PREDICT, INFER, COMPLETIONS, CHAT)):
                self.metrics.count_prediction(*answered_by, time.perf_counter() - start)

    def _busy(self, path: str) -> JSONResponse | None:
        """Return the 503 answer where `max_requests` are in hand already, else None."""
        if self.in_hand < self.max_requests or path in self.unlimited:
            return None
        message = f"too much to do: {self.in_hand:,} requests are in hand; try again in 1 s"
        return fault(path, 503, message, None, {"retry-after": "1"}, "overloaded")

    def _family(self, path: str) -> str:
        return next((prefix for prefix in self.prefixes if path.startswith(prefix)), "other")
