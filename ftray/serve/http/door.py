"""Refuses requests by their Host header, their API key and the type of their body."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from fastapi.responses import JSONResponse
from starlette.types import Scope

from ftray.serve.http.auth import METRICS, PREDICT
from ftray.serve.http.keyring import Keyring
from ftray.serve.protocols.errors import fault

KEY = "ftray.key"
"""Entry of a request's ASGI scope with the name of its API key."""
_TYPES = ("application/json", "application/x-ndjson", "application/octet-stream")
"""Accepted types of a body. A browser sends a CORS preflight request to the service before a
foreign web page may send a body of these types."""


@dataclass(frozen=True)
class Door:
    keys: Keyring | None = None
    """API keys that requests must bear; None: requests need no key."""
    loopback: bool = False
    """Whether only this machine may send requests. A Host header with another name then shows a
    foreign web page (DNS rebinding)."""
    open_paths: Collection[str] = ()
    """Paths that need no key."""
    metrics_path: str = ""

    def refusal(self, scope: Scope, path: str) -> JSONResponse | None:
        """Return the answer to a refused request; None for a request that may pass."""
        headers = {name.decode("latin-1"): v.decode("latin-1") for name, v in scope["headers"]}
        # Where requests need a key, a foreign web page is refused anyway: it has no key.
        if self.loopback and self.keys is None and not is_loopback(_name(headers.get("host", ""))):
            message = "this service is for its own machine: ask it as localhost or 127.0.0.1"
            return fault(path, 403, message, None, None, "wrong_host")
        if self.keys is not None and path not in self.open_paths:
            needed = METRICS if path == self.metrics_path else PREDICT
            verdict = self.keys.judge(headers.get("authorization", ""), needed)
            scope[KEY] = verdict.name
            if verdict.status != 200:
                return fault(
                    path, verdict.status, verdict.message, None, verdict.headers, verdict.code
                )
        # A program may leave out the Content-Type. A web page may not: its requests have an Origin.
        untyped = "content-type" not in headers and "origin" not in headers
        kind = headers.get("content-type", "")
        # A foreign web page may send a form without a preflight request: then the form is refused.
        own_form = _is_form(kind) and _is_own(headers)
        if scope["method"] == "POST" and not (untyped or own_form or _is_json(kind)):
            message = "send JSON, with the header Content-Type: application/json"
            return fault(path, 415, message)
        return None


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost" or host.lower().endswith(".localhost")


def _is_form(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "multipart/form-data"


def _is_own(headers: Mapping[str, str]) -> bool:
    """Return whether a request comes from a program, or from a page of this service."""
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2] == headers.get("host", "")


def _name(host: str) -> str:
    """Return the name in a Host header, without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind in _TYPES or (kind.startswith("application/") and kind.endswith("+json"))
