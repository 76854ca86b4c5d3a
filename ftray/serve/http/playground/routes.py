"""Serves the page at / on which a person tries a model, and the files that the page loads: nothing
comes from outside."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import PurePosixPath

from fastapi import APIRouter, HTTPException, Response

PREFIX = "/playground"
FILES = (
    "app.js",
    "api.js",
    "card.js",
    "dom.js",
    "rows.js",
    "snippets.js",
    "style.css",
    "widgets/registry.js",
    "widgets/inputs/field.js",
    "widgets/inputs/image.js",
    "widgets/inputs/text.js",
    "widgets/inputs/texts.js",
    "widgets/outputs/embedding.js",
    "widgets/outputs/entities.js",
    "widgets/outputs/fills.js",
    "widgets/outputs/items.js",
    "widgets/outputs/label_set.js",
    "widgets/outputs/labels.js",
    "widgets/outputs/numbers.js",
    "widgets/outputs/predicted.js",
    "widgets/outputs/ranking.js",
    "widgets/outputs/span.js",
    "widgets/outputs/text.js",
    "widgets/outputs/written.js",
)
"""Files that the page loads. No other file is served."""
PATHS = ("/", *(f"{PREFIX}/{name}" for name in FILES))
_PAGE = "index.html"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'"
)
"""The page's Content-Security-Policy: the browser runs nothing but the files above, whatever a
model's name or label may hold."""


@cache
def _content(name: str) -> bytes:
    return files(__package__).joinpath(*name.split("/")).read_bytes()


def _file(name: str) -> Response:
    # no-cache: after an update the files are those of the page.
    headers = {"content-security-policy": _POLICY, "cache-control": "no-cache"}
    return Response(_content(name), 200, headers, _TYPES[PurePosixPath(name).suffix])


def page_routes() -> APIRouter:
    routes = APIRouter(include_in_schema=False)

    @routes.get("/")
    async def page() -> Response:
        return _file(_PAGE)

    @routes.get(PREFIX + "/{name:path}")
    async def file(name: str) -> Response:
        if name not in FILES:
            raise HTTPException(404)
        return _file(name)

    return routes
