"""The HTTP interface of a served model: its paths, and the one shape of its errors.

A protocol is a router of its own over the same `Backend`, so that others can stand beside this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ftray import __version__
from ftray.serve.gate import PREDICT, Gate
from ftray.serve.messages import (
    MAX_BODY,
    Fault,
    Health,
    Prediction,
    PredictRequest,
    fault,
    fault_of,
)
from ftray.serve.metrics import CONTENT_TYPE, Metrics

HEALTH, METRICS, OPENAPI = "/healthz", "/metrics", "/openapi.json"
_FAULTS: dict[int | str, dict[str, Any]] = {
    400: {"model": Fault, "description": "The body is not JSON."},
    413: {"model": Fault, "description": "The body is too long."},
    415: {"model": Fault, "description": "The body is not announced as JSON."},
    422: {"model": Fault, "description": "A field is missing, unknown or wrong."},
}


class Backend(Protocol):
    """What answers the requests."""

    name: str
    version: int | None

    async def answer(self, texts: Sequence[str], top_k: int | None) -> list[Any]: ...

    async def metrics_page(self) -> bytes: ...


def create_api(backend: Backend, metrics: Metrics) -> FastAPI:
    """The application of one replica. It exists only after the golden answers were replayed."""
    # The usual documentation pages load their scripts from outside.
    api = FastAPI(
        title=f"ftray: {backend.name}",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=OPENAPI,
    )
    _add_paths(api, backend)
    _add_faults(api)
    identity = {"model": backend.name, "version": backend.version}
    api.add_middleware(
        Gate,
        headers={f"x-ftray-{key}": ascii_only(value) for key, value in identity.items()},
        metrics=metrics,
        paths={PREDICT, HEALTH, METRICS, OPENAPI},
        max_body=MAX_BODY,
    )
    return api


def ascii_only(value: object) -> str:
    """`value` as a header may carry it; nothing for None."""
    return "" if value is None else str(value).encode("ascii", "backslashreplace").decode()


def _add_paths(api: FastAPI, backend: Backend) -> None:
    identity = {"model": backend.name, "version": backend.version}

    @api.post(PREDICT, response_model=Prediction, responses=_FAULTS)
    async def predict(request: PredictRequest) -> Response:
        """One output an input, in the shape of the Hugging Face pipeline of the model's task."""
        outputs = await backend.answer(request.inputs, request.top_k)
        return JSONResponse({**identity, "outputs": outputs})

    @api.get(HEALTH, response_model=Health)
    async def health() -> Response:
        """Answers once a replica has given the golden answers again, and not before."""
        return JSONResponse({"status": "ok", **identity})

    @api.get(METRICS, response_class=Response)
    async def metrics_page() -> Response:
        """Counts of all replicas in Prometheus' text format."""
        return Response(await backend.metrics_page(), media_type=CONTENT_TYPE)


def _add_faults(api: FastAPI) -> None:
    @api.exception_handler(RequestValidationError)
    async def wrong(request: Request, error: RequestValidationError) -> Response:
        announced = request.headers.get("content-type", "")
        status, message, field = fault_of(error.errors(), announced)
        return fault(status, message, field)

    @api.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        message = str(error.detail)
        if error.status_code == 404:
            message = f"no such path; there are {PREDICT}, {HEALTH}, {METRICS}, {OPENAPI}"
        return fault(error.status_code, message, None, error.headers)

    @api.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return fault(500, "the model could not answer; the log of the service says why", None)
