"""Refuses requests by their Host header, their API key and the type of their body."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass

from fastapi.responses import JSONResponse
from starlette.types import Scope

from ftray.serve.http.auth import METRICS, PREDICT
from ftray.serve.http.keyring import Keyring
from ftray.serve.protocols.errors import fault

KEY = "ftray.key"
"""Entry of a request's ASGI scope with the name of its API key."""
_TYPES = ("application/json", "application/x-ndjson", "application/octet-stream")
"""Accepted types of a body. A browser asks the service before a stranger's page may send these."""


@dataclass(frozen=True)
class Door:
    keys: Keyring | None = None
    """None: everybody may ask."""
    loopback: bool = False
    """Whether only this machine is to ask: then a name that leads here may be a stranger's."""
    open_paths: Collection[str] = ()
    """Paths that need no key."""
    metrics_path: str = ""

    def refusal(self, scope: Scope, path: str) -> JSONResponse | None:
        """The answer to a request that does not come in."""
        headers = {name.decode("latin-1"): v.decode("latin-1") for name, v in scope["headers"]}
        # Who has a key is no stranger's page.
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
        # Programs may leave the type out; a browser then says whose page it is.
        untyped = "content-type" not in headers and "origin" not in headers
        if scope["method"] == "POST" and not (untyped or _is_json(headers.get("content-type", ""))):
            message = "send JSON, with the header Content-Type: application/json"
            return fault(path, 415, message)
        return None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost" or host.lower().endswith(".localhost")


def _name(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind in _TYPES or (kind.startswith("application/") and kind.endswith("+json"))
