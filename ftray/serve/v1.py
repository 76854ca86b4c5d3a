"""ftray's own protocol: predictions, and what is known of the model."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from ftray.serve.backend import Backend
from ftray.serve.faults import Fault, documented
from ftray.serve.messages import ModelCard, Prediction, PredictRequest

PREDICT, MODEL = "/v1/predict", "/v1/model"
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


def v1_routes(backend: Backend) -> APIRouter:
    routes = APIRouter()

    @routes.post(PREDICT, response_model=Prediction, responses=_FAULTS)
    async def predict(request: PredictRequest) -> Response:
        """One output an input, in the shape of the Hugging Face pipeline of the model's task."""
        answers = await backend.answer(request.inputs, request.top_k)
        body = {"model": backend.name, "version": answers.version, "outputs": answers.outputs}
        return JSONResponse(body, headers=answers.headers)

    @routes.get(MODEL, response_model=ModelCard)
    async def model() -> Response:
        """What the model is, where it came from and how good it was."""
        info = backend.info
        card = ModelCard(
            model=backend.name,
            version=backend.version,
            task=info.task,
            labels=list(info.labels),
            max_length=info.max_length,
            base=info.base.name_or_path,
            run=info.run,
            metrics=info.metrics,
        )
        return JSONResponse(card.model_dump(mode="json"))

    return routes
