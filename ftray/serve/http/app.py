"""Builds the HTTP application of a replica: its paths, and the shapes of its errors.

Each protocol is a router of its own over the same `Backends`, so that several protocols can stand
side by side.
"""

from __future__ import annotations

import math

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ftray import __version__
from ftray.serve.http.bodies import Bodies
from ftray.serve.http.door import Door
from ftray.serve.http.keyring import Keyring
from ftray.serve.http.middleware import Gate, route_path
from ftray.serve.http.playground import routes as playground
from ftray.serve.interface import Backends, BadPrompt, NotNow
from ftray.serve.ops.metrics import CONTENT_TYPE, Metrics
from ftray.serve.protocols.errors import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    UNANSWERED,
    UNHEALTHY,
    Fault,
    Refused,
    documented,
    fault,
    fault_of,
    fault_of_prompt,
)
from ftray.serve.protocols.ndjson import STREAM
from ftray.serve.protocols.oip import routes as v2
from ftray.serve.protocols.openai.routes import openai_routes
from ftray.serve.protocols.predict import MODEL, MODELS, PREDICT, V1, v1_routes
from ftray.serve.schemas import MAX_BODY, MAX_FILES, MAX_STREAM, MAX_TOGETHER, Health

HEALTH, METRICS, OPENAPI = "/healthz", "/metrics", "/openapi.json"
PATHS = (
    "/",
    V1 + PREDICT,
    V1 + STREAM,
    COMPLETIONS,
    CHAT,
    EMBEDDINGS,
    MODEL,
    MODELS,
    HEALTH,
    METRICS,
    OPENAPI,
)
OPEN = {*playground.PATHS, HEALTH, *v2.HEALTH}
"""Paths that need no key."""


def create_api(
    backends: Backends,
    metrics: Metrics,
    keys: Keyring | None = None,
    loopback: bool = False,
    max_requests: float = math.inf,
) -> FastAPI:
    """Return the application of one replica. keys: API keys of which each request must bear one;
    None: requests need no key. loopback: whether only the replica's own machine may send requests.
    max_requests: requests in hand from which on the replica refuses more. The replica calls this
    function only after its models have reproduced their golden answers."""
    # No docs_url and redoc_url: FastAPI's documentation pages load their scripts from outside.
    api = FastAPI(
        title=f"ftray: {', '.join(backend.address for backend in backends.entries)}",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=OPENAPI,
        # Relative to the URL of the document, whatever prefix a proxy has cut off the path.
        servers=[{"url": "."}],
        root_path_in_servers=False,
    )
    reads_files = any(backend.info.kind.files for backend in backends.entries)
    bodies = Bodies(MAX_FILES if reads_files else MAX_BODY, MAX_TOGETHER)
    streams = Bodies(MAX_STREAM, MAX_TOGETHER)
    protocols = v1_routes(backends), openai_routes(backends), v2.v2_routes(backends)
    for routes in (*protocols, playground.page_routes()):
        api.include_router(routes)
    _add_operations(api, backends)
    _add_faults(api)
    api.add_middleware(
        Gate,
        backends=backends,
        metrics=metrics,
        paths=PATHS,
        prefixes=(MODELS, v2.PREFIX, playground.PREFIX),
        bodies=lambda path: streams if path.endswith(STREAM) else bodies,
        max_requests=max_requests,
        unlimited={*OPEN, METRICS},
        door=Door(keys, loopback, OPEN, METRICS),
    )
    if keys is not None:
        _add_scheme(api)
    return api


def _add_scheme(api: FastAPI) -> None:
    """Say in the OpenAPI document which paths need a key."""
    document = api.openapi()  # FastAPI keeps this object, and serves it with the changes below
    schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
    schemes["key"] = {"type": "http", "scheme": "bearer", "description": "An API key."}
    document["security"] = [{"key": []}]
    for path in OPEN & document["paths"].keys():
        for operation in document["paths"][path].values():
            operation["security"] = []


def _add_operations(api: FastAPI, backends: Backends) -> None:
    sick = documented(Fault, {503: "The model hangs, or gives its golden answers no longer."})

    @api.get(HEALTH, response_model=Health, responses=sick)
    async def health() -> Response:
        """Whether the replica gave its golden answers, and still gives them."""
        if backends.fault:
            return fault(HEALTH, 503, UNHEALTHY, headers={"retry-after": "1"})
        first = backends.entries[0]
        return JSONResponse({"status": "ok", "model": first.name, "version": first.version})

    @api.get(METRICS, response_class=Response)
    async def metrics_page() -> Response:
        """Counts of all replicas in Prometheus' text format."""
        return Response(await backends.metrics_page(), media_type=CONTENT_TYPE)


def _add_faults(api: FastAPI) -> None:
    @api.exception_handler(RequestValidationError)
    async def wrong(request: Request, error: RequestValidationError) -> Response:
        announced = request.headers.get("content-type", "")
        path = route_path(request.scope)
        return fault(path, *fault_of(path, error.errors(), announced))

    @api.exception_handler(BadPrompt)
    async def unanswerable(request: Request, error: BadPrompt) -> Response:
        path = route_path(request.scope)
        return fault(path, *fault_of_prompt(path, error.field, str(error)), code=error.code)

    @api.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        message = str(error.detail)
        if error.status_code == 404 and message == "Not Found":
            message = f"no such path; there are {', '.join((*PATHS, v2.PREFIX))}"
        if error.status_code == 405 and error.headers:
            message = f"send {error.headers['Allow']}, not {request.method}"
        path, status, headers = route_path(request.scope), error.status_code, error.headers
        field, code = (error.field, error.code) if isinstance(error, Refused) else (None, None)
        return fault(path, status, message, field, headers, code)

    @api.exception_handler(NotNow)
    async def not_now(request: Request, error: NotNow) -> Response:
        headers = {"retry-after": str(error.retry_after_s)}
        return fault(route_path(request.scope), 503, error.told, None, headers, error.code)

    @api.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return fault(route_path(request.scope), 500, UNANSWERED)
