"""The routes of the Open Inference Protocol, version 2, over HTTP, for clients of KServe, Triton
and MLServer (https://github.com/kserve/open-inference-protocol), with Triton's binary tensors as
input.

A model has an input for each column of what is asked, BYTES of shape [n] or [n, 1]: `text`, or
`question` and `context`, or `image`. Its outputs (see `outputs`) depend on the kind of its answers.
Of a model with labels they are `label`, BYTES [n]; `score`, FP32 [n]; `probabilities`, FP32 [n, C],
in the order of the labels in the model's metadata.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from ftray import __version__
from ftray.errors import shorten
from ftray.serve.interface import Backend, Backends, named, version_number
from ftray.serve.protocols.errors import V2, ProtocolFault, documented
from ftray.serve.protocols.oip.outputs import OUTPUTS, described, output_tensors
from ftray.serve.protocols.oip.tensors import (
    HEADER_LENGTH,
    InferRequest,
    InferResponse,
    read_request,
)
from ftray.serve.signature import inlined, is_file, signature

PREFIX, INFER = V2, "/infer"
HEALTH = (f"{PREFIX}/health/live", f"{PREFIX}/health/ready")
PLATFORM = "ftray"
_ALL = 1 << 30  # a top_k that asks for all labels of a text
_MODEL = "/models/{name}"
_VERSIONED = _MODEL + "/versions/{version}"
_ADDRESSED = documented(
    ProtocolFault,
    {404: "Another model or version is served here.", 422: "The path is malformed."},
)
_FAULTS = documented(
    ProtocolFault,
    {
        400: "The request is wrong.",
        413: "The body is too long.",
        503: "Too many rows wait: see Retry-After.",
    },
)


_SCHEMA = InferRequest.model_json_schema()
_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": inlined(_SCHEMA)}},
    }
}


def v2_routes(backends: Backends) -> APIRouter:
    routes = APIRouter(prefix=PREFIX)
    _add_server(routes, backends)
    model = APIRouter(responses=_ADDRESSED)
    which = _chosen(backends)
    _add_model(model, which)
    _add_infer(model, which)
    routes.include_router(model)
    return routes


def _chosen(backends: Backends) -> Any:
    """Return a FastAPI dependency that finds the model in a path."""

    async def choose(name: str, version: str | None = None) -> Backend:
        if (backend := backends.find(name, version)) is None:
            wanted = shorten(name if version is None else f"{name} version {version}")
            here = (f"{b.name}, version {version_number(b)}" for b in backends.entries)
            raise HTTPException(404, f"no model {wanted}; here is {' and '.join(here)}")
        return backend

    return Depends(choose)


def _add_server(routes: APIRouter, backends: Backends) -> None:
    @routes.get("")
    async def server() -> Any:
        """The server."""
        return {"name": PLATFORM, "version": __version__, "extensions": ["binary_tensor_data"]}

    @routes.get("/health/live")
    async def live() -> Any:
        """Whether requests are taken."""
        return {"live": True}

    @routes.get("/health/ready")
    async def ready() -> Any:
        """Whether the replica gave its golden answers, and still gives them."""
        return _readiness({"ready": not backends.fault})


def _add_model(routes: APIRouter, which: Any) -> None:
    @routes.get(_MODEL)
    @routes.get(_VERSIONED)
    async def metadata(backend: Backend = which) -> Any:
        """Inputs and outputs of the model."""
        return _metadata(backend)

    @routes.get(_MODEL + "/ready")
    @routes.get(_VERSIONED + "/ready")
    async def model_ready(backend: Backend = which) -> Any:
        """Whether the model answers."""
        return _readiness({"name": backend.name, "ready": not backend.fault})


def _readiness(body: dict[str, Any]) -> JSONResponse:
    return JSONResponse(body, 200 if body["ready"] else 503)


def _add_infer(routes: APIRouter, which: Any) -> None:
    options: dict[str, Any] = {
        "response_model": InferResponse,
        "response_model_exclude_none": True,
        "responses": _FAULTS,
        "openapi_extra": _BODY,
    }

    @routes.post(_MODEL + INFER, **options)
    @routes.post(_VERSIONED + INFER, **options)
    async def infer(http: Request, backend: Backend = which) -> Any:
        """One row of each output tensor for each row of the inputs."""
        info, announced = backend.info, http.headers.get(HEADER_LENGTH)
        names = tuple(OUTPUTS[info.kind.output])
        body = await http.body()
        of = signature(info)
        read = partial(read_request, body, announced, of, names)
        decodes = any(is_file(kind) for _, kind in of)  # base64 takes a while
        request, questions = await run_in_threadpool(read) if decodes else read()
        answers = await backend.answer(questions, _ALL if info.kind.ranks and info.labels else None)
        wanted = [output.name for output in request.outputs] or names
        told: dict[str, Any] = {
            "model_name": backend.name,
            "model_version": version_number(answers),
        }
        if request.id is not None:
            told["id"] = request.id
        told["outputs"] = output_tensors(answers.outputs, info, wanted)
        return JSONResponse(told, headers=named(answers))


def _metadata(backend: Backend) -> dict[str, Any]:
    info = backend.info
    return {
        "name": backend.name,
        "versions": [version_number(backend)],
        "platform": PLATFORM,
        "inputs": [
            {"name": name, "datatype": "FP64" if kind == "number" else "BYTES", "shape": [-1]}
            for name, kind in info.inputs.items()
        ],
        "outputs": described(info),
        "parameters": {"labels": list(info.labels)},
    }
