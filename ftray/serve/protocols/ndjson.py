"""Answers many rows in one request: a JSON line in, a JSON line out, in the same order.

Only a few rows of a stream wait at a time, so that other requests are answered meanwhile. Where the
model is overloaded, the stream waits, and its client gets no 503.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import from_json

from ftray.serve.interface import Backend, BadPrompt, Overloaded, Unavailable, named
from ftray.serve.ops.log import logger
from ftray.serve.protocols.errors import UNANSWERED, Fault, documented
from ftray.serve.schemas import MAX_STREAM_ROWS
from ftray.serve.signature import Signature, input_type, is_object, question_of, signature
from ftray.spec.messages import first_fault
from ftray.tasks.base import Question

_log = logger(__name__)

STREAM = "/predict/stream"
MEDIA_TYPE = "application/x-ndjson"
_ROWS = 32
"""Rows of a stream that go to the model together; as many again wait behind them."""
_SHOWN = 160  # characters of a message


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid")
    inputs: Any


_BODY = {
    "requestBody": {
        "required": False,
        "description": 'A line a row: an input, such as "a text", or {"inputs": an input}.',
        "content": {MEDIA_TYPE: {"schema": {"type": "string"}}},
    }
}
_ANSWERS: dict[int | str, Any] = {
    200: {
        "description": "A line a row, in order: `version` and `output`, or `error`.",
        "content": {MEDIA_TYPE: {"schema": {"type": "string"}}},
    },
    **documented(
        Fault, {413: "The body is too long, or has too many lines.", 422: "top_k is wrong."}
    ),
}


def add_stream(routes: APIRouter, which: Any) -> None:
    """Add the stream route of the model that the dependency `which` finds."""

    @routes.post(STREAM, response_class=StreamingResponse, responses=_ANSWERS, openapi_extra=_BODY)
    async def stream(
        http: Request,
        backend: Backend = which,
        top_k: Annotated[int | None, Query(ge=1)] = None,
    ) -> StreamingResponse:
        """One output a line. A line that is wrong gets an error in its place, and costs the others
        nothing."""
        # Read the whole body before the first answer: a client that sends its whole body before it
        # reads would wait for ever.
        body = await http.body()
        if (count := body.count(b"\n")) > MAX_STREAM_ROWS:
            limit = f"{MAX_STREAM_ROWS:,} a stream is the limit"
            raise HTTPException(413, f"{count:,} lines; {limit}")
        # Split at \n alone, as the count above does; JSON ignores a \r before the \n.
        lines = body.removesuffix(b"\n").split(b"\n") if body else []
        answers = _answers(backend, lines, top_k)
        return StreamingResponse(answers, media_type=MEDIA_TYPE, headers=named(backend))


async def _answers(
    backend: Backend, lines: Sequence[bytes], top_k: int | None
) -> AsyncIterator[bytes]:
    loop, running = asyncio.get_running_loop(), deque[asyncio.Task[bytes]]()
    try:
        for chunk in _chunks(lines):
            running.append(loop.create_task(_answer(backend, chunk, top_k)))
            if len(running) > 1:
                yield await running.popleft()
        while running:
            yield await running.popleft()
    finally:  # where the client went away, its waiting rows are not computed
        for task in running:
            task.cancel()


def _chunks(lines: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(lines), _ROWS):
        yield lines[start : start + _ROWS]


async def _answer(backend: Backend, lines: Sequence[bytes], top_k: int | None) -> bytes:
    """Return the lines that answer these lines."""
    of = signature(backend.info)
    read = [_question(line, of) for line in lines]
    told: list[Any] = list(read)
    places = [place for place, each in enumerate(read) if not isinstance(each, _Fault)]
    if places:
        rows = await _rows(backend, [read[place] for place in places], top_k)
        for place, row in zip(places, rows, strict=True):
            told[place] = row
    return b"".join(json.dumps(line).encode() + b"\n" for line in told)


async def _rows(backend: Backend, questions: Sequence[Question], top_k: int | None) -> list[Any]:
    while True:
        try:
            answers = await backend.answer(questions, top_k)
        except Overloaded as busy:
            await asyncio.sleep(busy.retry_after_s)
        except Unavailable as gone:
            return [_fault(str(gone))] * len(questions)
        except Exception as error:  # noqa: BLE001 - told in the line: the status is sent already
            if len(questions) > 1:
                return [row for one in questions for row in await _rows(backend, [one], top_k)]
            if isinstance(error, BadPrompt):
                return [_fault(str(error))]
            _log.exception("%s could not answer a line of a stream", backend.address)
            return [_fault(UNANSWERED)]
        else:
            return [{"version": answers.version, "output": one} for one in answers.outputs]


class _Fault(dict[str, Any]):
    """The error to send in place of an answer."""


def _question(line: bytes, of: Signature) -> Question | _Fault:
    """Return the question of a line: an input, or an object with the input under `inputs`."""
    try:
        value = from_json(line, allow_inf_nan=False)
        names = {name for name, _ in of}
        if isinstance(value, dict) and not (is_object(of) and value.keys() & names):
            value = _Line.model_validate(value).inputs
        return question_of(TypeAdapter(input_type(of)).validate_python(value))
    except ValidationError as error:
        return _fault(first_fault(error))
    except ValueError as error:
        return _fault(f"not JSON: {error}")


def _fault(message: str) -> _Fault:
    shown = message.encode("utf-8", "backslashreplace").decode()[:_SHOWN]
    return _Fault(error={"message": shown, "field": None})
