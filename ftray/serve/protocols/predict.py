"""ftray's own protocol: predictions and model cards.

Each model has its paths below /v1/models/NAME. /v1/predict and /v1/model belong to the first model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.responses import JSONResponse

from ftray.errors import shorten, without_passwords
from ftray.models.artifact.manifest import ModelInfo
from ftray.serve.interface import Backend, Backends, named
from ftray.serve.protocols.bodies import FORM, read_request
from ftray.serve.protocols.errors import Fault, documented
from ftray.serve.protocols.ndjson import add_stream
from ftray.serve.schemas import ModelCard, ModelCards
from ftray.serve.signature import Signature, is_file, prediction_type, request_schema, signature

V1, PREDICT = "/v1", "/predict"
_EXAMPLES = 3
MODEL, MODELS = f"{V1}/model", f"{V1}/models"
_FAULTS = documented(
    Fault,
    {
        400: "The body is not JSON.",
        413: "The body is too long.",
        415: "The body is not announced as JSON.",
        422: "A field is missing, unknown or wrong.",
        503: "Too many rows wait; Retry-After says for how long.",
    },
)
_UNKNOWN = documented(Fault, {404: "No such model.", 422: "The path is malformed."})


def v1_routes(backends: Backends) -> APIRouter:
    routes = APIRouter(prefix=V1)

    async def first() -> Backend:
        return backends.entries[0]

    async def chosen(name: str) -> Backend:
        if (backend := backends.find(name)) is None:
            here = ", ".join(backend.address for backend in backends.entries)
            raise HTTPException(404, f"no model {shorten(name)}; there are {here}")
        return backend

    @routes.get("/models", response_model=ModelCards)
    async def models() -> Response:
        """All models that are served."""
        cards = [_card(backend).model_dump(mode="json") for backend in backends.entries]
        return JSONResponse({"object": "list", "data": cards})

    everyone = [backend.info for backend in backends.entries]
    _add_model(routes, "/model", Depends(first), everyone[:1])
    one = APIRouter(prefix="/models/{name}", responses=_UNKNOWN)
    _add_model(one, "", Depends(chosen), everyone)
    routes.include_router(one)
    return routes


def _add_model(routes: APIRouter, card_path: str, which: Any, models: Sequence[ModelInfo]) -> None:
    """Add the routes for the card and the predictions of one model, which the dependency `which`
    finds among `models`."""
    answer = prediction_type(models)

    @routes.get(card_path, response_model=ModelCard)
    async def model(backend: Backend = which) -> Response:
        """Describes the model: its task, its base model and its metrics."""
        return JSONResponse(_card(backend).model_dump(mode="json"), headers=named(backend))

    @routes.post(PREDICT, response_model=answer, responses=_FAULTS, openapi_extra=_body(models))
    async def predict(http: Request, backend: Backend = which) -> Response:
        """One output an input, in the shape of the Hugging Face pipeline of the model's task; of a
        model that generates it is the text without the prompt."""
        asked = await read_request(http, signature(backend.info))
        answers = await backend.answer(asked.questions, asked.top_k)
        body = {"model": answers.name, "version": answers.version, "outputs": answers.outputs}
        return JSONResponse(body, headers=named(answers))

    add_stream(routes, which)


def _body(models: Sequence[ModelInfo]) -> dict[str, Any]:
    """Return the part of the OpenAPI document about the body of a request to one of `models`."""
    content = {"application/json": {"schema": request_schema(models)}}
    files = [of for of in map(signature, models) if any(is_file(kind) for _, kind in of)]
    if files:
        content[FORM] = {"schema": _form_schema(files[0])}
    return {"requestBody": {"required": True, "content": content}}


def _form_schema(of: Signature) -> dict[str, Any]:
    kinds = {True: {"type": "string", "format": "binary"}, False: {"type": "string"}}
    parts = {name: {"type": "array", "items": kinds[is_file(kind)]} for name, kind in of}
    return {"type": "object", "properties": {**parts, "top_k": {"type": "integer"}}}


def _card(backend: Backend) -> ModelCard:
    info = backend.info
    shown = 0 if info.learnt_chats else _EXAMPLES  # chats are no texts to try
    return ModelCard(
        id=backend.address,
        model=backend.name,
        version=backend.version,
        task=info.task,
        labels=list(info.labels),
        max_length=info.max_length,
        chat=info.learnt_chats,
        inputs=dict(info.inputs),
        output=info.kind.output,
        base=without_passwords(info.base.name_or_path),
        run=info.run,
        metrics=info.metrics,
        examples=[golden.input for golden in info.golden[:shown]],
    )
