"""Serves the page at / on which a person tries the model: one file that loads nothing from
outside."""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

_POLICY = (
    "default-src 'none'; style-src {style}; script-src {script}; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@cache
def _page() -> str:
    return (files("ftray.serve.http") / "playground.html").read_text(encoding="utf-8")


@cache
def _policy() -> str:
    """Return the page's Content-Security-Policy: the browser runs nothing but the page's own
    script, whatever a model's name or label may hold."""
    return _POLICY.format(style=_hash("style"), script=_hash("script"))


def _hash(element: str) -> str:
    """Return the hash of the content of the page's only element with this name."""
    content = _page().partition(f"<{element}>")[2].partition(f"</{element}>")[0]
    return f"'sha256-{b64encode(sha256(content.encode()).digest()).decode()}'"


def page_routes() -> APIRouter:
    routes = APIRouter()

    @routes.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(_page(), headers={"content-security-policy": _policy()})

    return routes
