"""The routes of OpenAI's protocol: models continue texts, answer chats, and embed texts
(https://platform.openai.com/docs/api-reference)."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from ftray.errors import shorten
from ftray.serve.interface import Backend, Backends, named
from ftray.serve.protocols.errors import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    OpenAIFault,
    Refused,
    documented,
)
from ftray.serve.protocols.openai.embeddings import dimensions_schema, embeddings
from ftray.serve.protocols.openai.fanout import Choices
from ftray.serve.protocols.openai.render import events, whole
from ftray.serve.protocols.openai.requests import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    GenerationRequest,
)
from ftray.serve.protocols.openai.responses import (
    CHAT_FORM,
    TEXT_FORM,
    ChatCompletion,
    Completion,
    Embeddings,
    Form,
)
from ftray.serve.protocols.predict import MODELS, PREDICT
from ftray.tasks.info import Output

Result = TypeVar("Result")

_WRITER: tuple[Output, str] = ("text", "generate")
_GONE = 499
"""Status where the client has gone away: only the metrics show it."""
_SSE = "text/event-stream"
_UNBUFFERED = {"cache-control": "no-cache", "x-accel-buffering": "no"}
_ANSWERS: dict[int | str, Any] = {
    200: {
        "description": "With `stream`, chunks as server-sent events, and [DONE] at the end.",
        "content": {_SSE: {}},
    },
    **documented(
        OpenAIFault,
        {
            400: "A field is missing, unknown, wrong or not supported.",
            401: "The service wants an API key.",
            404: "No such model, or none for this path.",
            413: "The body is too long.",
            415: "The body is not announced as JSON.",
            503: "Too much is to do; Retry-After says for how long.",
        },
    ),
    # Without `default`, FastAPI would document a 422 in a shape of its own.
    "default": {"model": OpenAIFault, "description": "Whatever else went wrong."},
}


def openai_routes(backends: Backends) -> APIRouter:
    routes = APIRouter(responses=_ANSWERS)

    @routes.post(COMPLETIONS, response_model=Completion)
    async def complete(http: Request, request: CompletionRequest) -> Response:
        """Goes on with a text, or with each of several."""
        return await _answer(http, request, _found(backends, request.model, *_WRITER), TEXT_FORM)

    @routes.post(CHAT, response_model=ChatCompletion)
    async def chat(http: Request, request: ChatRequest) -> Response:
        """Says what the assistant says next."""
        return await _answer(http, request, _found(backends, request.model, *_WRITER), CHAT_FORM)

    @routes.post(EMBEDDINGS, response_model=Embeddings, openapi_extra=dimensions_schema(backends))
    async def embed(request: EmbeddingRequest) -> Response:
        """Gives the vector of each text."""
        backend = _found(backends, request.model, "embedding", "embed")
        answers = await backend.answer(request.input, None)
        body = embeddings(request, backend.address, answers)
        return JSONResponse(body.model_dump(), headers=named(answers))

    return routes


def _found(backends: Backends, name: str, output: Output, verb: str) -> Backend:
    """Find the model of that name, which must give such answers. verb: what it then does."""
    backend = backends.find(name)
    if backend is None:
        there = [each.address for each in backends.entries if each.info.kind.output == output]
        message = f"no model {shorten(name)}; those that {verb}: {', '.join(there) or 'none'}"
        raise Refused(404, message, "model", "model_not_found")
    if backend.info.kind.output != output:
        path = f"{MODELS}/{backend.address}{PREDICT}"
        message = f"{backend.address} does {backend.info.task} and does not {verb}; ask {path}"
        raise Refused(404, message, "model", "model_not_supported")
    return backend


async def _answer(
    http: Request, request: GenerationRequest, backend: Backend, form: Form
) -> Response:
    numbers = range(request.n)
    choices = Choices(backend, [(p, request.sampling(i)) for p in request.prompts for i in numbers])
    told = request, form, backend.address, choices
    try:
        # A choice is refused before its first piece: mostly, the status can still report this.
        if request.stream:
            begun = await _unless_gone(http, choices.begin_soon())
            headers = named(begun or backend) | _UNBUFFERED
            return _Events(choices, events(*told), media_type=_SSE, headers=headers)
        headers = named(await _unless_gone(http, choices.begin()))
        answer = await _unless_gone(http, whole(*told))
    except BaseException:
        choices.close()
        raise
    return JSONResponse(answer.model_dump(), headers=headers)


async def _unless_gone(http: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Return the result of `work`. Where the client goes away first, cancel `work` and raise
    HTTPException."""
    task, gone = asyncio.create_task(work), asyncio.create_task(_gone(http))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise HTTPException(_GONE, "the client went away")
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _gone(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


class _Events(StreamingResponse):
    """A stream that closes its choices however the response ends, also where nothing was sent:
    closing a generator that has not begun does not run its code."""

    def __init__(self, choices: Choices, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._choices = choices

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._choices.close()
