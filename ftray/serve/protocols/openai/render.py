"""Renders the steps of a request's choices in OpenAI's protocol: as one answer, or as a stream."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Collection
from functools import partial
from typing import Any

from pydantic import BaseModel

from ftray.serve.interface import BadPrompt, NotNow
from ftray.serve.ops.log import logger
from ftray.serve.protocols.errors import UNANSWERED, OpenAIFault, openai_fault
from ftray.serve.protocols.openai.fanout import Choices, Step
from ftray.serve.protocols.openai.requests import GenerationRequest
from ftray.serve.protocols.openai.responses import Answer, Form, Usage

_log = logger(__name__)

_DONE = b"data: [DONE]\n\n"
_SILENCE = b": keep-alive\n\n"


async def whole(
    request: GenerationRequest, form: Form, model: str, steps: AsyncIterator[Step]
) -> Answer:
    texts: dict[int, list[str]] = {}
    latest: dict[int, Step] = {}
    async for step in steps:
        texts.setdefault(step.index, []).append(step.piece.text)
        latest[step.index] = step
    choices = [
        form.choice(index, "".join(texts[index]), latest[index].piece.finish)
        for index in sorted(latest)
    ]
    usage = _usage(latest.values(), request.n)
    return form.whole(**_head(form, model), choices=choices, usage=usage)


async def events(
    request: GenerationRequest, form: Form, model: str, choices: Choices
) -> AsyncIterator[bytes]:
    """Yield server-sent events: chunks while the choices grow, and comments while they do not, as
    proxies close an idle connection."""
    with_usage = request.stream_options.include_usage
    chunk = partial(form.chunk, **_head(form, model), **({"usage": None} if with_usage else {}))
    latest: dict[int, Step] = {}
    try:
        async for step in choices.with_silences():
            if step is None:
                yield _SILENCE
                continue
            if form.opening and step.index not in latest:
                yield _event(chunk(choices=[form.opening(step.index)]))
            latest[step.index] = step
            if step.piece.text:
                yield _event(chunk(choices=[form.grown(step.index, step.piece.text, None)]))
            if step.piece.finish:
                yield _event(chunk(choices=[form.grown(step.index, "", step.piece.finish)]))
    except Exception as error:  # noqa: BLE001 - told in an event: the status is sent already
        yield _event(_fault(model, error))
        return
    if with_usage:
        yield _event(chunk(choices=[], usage=_usage(latest.values(), request.n)))
    yield _DONE


def _fault(model: str, error: Exception) -> OpenAIFault:
    """Return the error body that a response with an error status would have had."""
    if isinstance(error, BadPrompt):
        return openai_fault(400, str(error), code=error.code)
    if isinstance(error, NotNow):
        return openai_fault(503, error.told, code=error.code)
    _log.error("%s could not go on with a stream", model, exc_info=error)
    return openai_fault(500, UNANSWERED)


def _head(form: Form, model: str) -> dict[str, Any]:
    return {"id": form.prefix + uuid.uuid4().hex, "created": int(time.time()), "model": model}


def _usage(latest: Collection[Step], choices_each: int) -> Usage:
    """Count the tokens. A prompt counts once, however many choices answer it."""
    firsts = (step for step in latest if step.index % choices_each == 0)
    prompt = sum(step.generation.prompt_tokens for step in firsts)
    drawn = sum(step.piece.tokens for step in latest)
    return Usage(prompt_tokens=prompt, completion_tokens=drawn, total_tokens=prompt + drawn)


def _event(body: BaseModel) -> bytes:
    # json.dumps escapes all but ASCII: some clients take other characters for the end of a line.
    return f"data: {json.dumps(body.model_dump(exclude_unset=True))}\n\n".encode()
