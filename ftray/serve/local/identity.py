"""Refuses requests for other services: on one machine, a service may get a port that another
service had before.

The proxy stamps every request that it passes on with its service's token (see `haproxy`). Behind
the proxy are HTTP servers of Ray Serve: those of the replicas and that of the fallback proxy. Each
of these servers answers only requests with the stamp of its own service. Ray Serve calls
`middlewares` for each server; without a service's token there is nothing to check.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from hmac import compare_digest
from importlib import import_module

from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ftray.serve.local.haproxy import MISDIRECTED, STAMP

TOKEN = "FTRAY_SERVICE"
"""Environment variable with the service's token."""
CALLBACK, MIDDLEWARES = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", f"{__name__}:middlewares"
"""Environment variable that names Ray Serve's middleware callback, and the value that names
`middlewares`."""
THEIRS = "FTRAY_SERVICE_CALLBACK"
"""Environment variable with a user's own value of `CALLBACK`."""
_HEADER = STAMP.encode()


def middlewares() -> list[Middleware]:
    found: list[Middleware] = []
    if theirs := os.environ.get(THEIRS):
        module, _, name = theirs.replace(":", ".").rpartition(".")
        found += getattr(import_module(module), name)() or []
    if token := os.environ.get(TOKEN):
        # The last middleware of the list is the outermost.
        found.append(Middleware(SameService, token=token.encode()))
    return found


@dataclass
class SameService:
    """ASGI middleware around all answers of an HTTP server, those to health checks included."""

    app: ASGIApp
    token: bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        stamp = dict(scope["headers"]).get(_HEADER, b"")
        if not compare_digest(stamp, self.token):
            await PlainTextResponse("meant for another service", MISDIRECTED)(scope, receive, send)
            return

        async def send_stamped(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (_HEADER, self.token)]
            await send(message)

        await self.app(scope, receive, send_stamped)
