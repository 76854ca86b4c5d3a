"""Error responses: one message for a request without an answer, in the shape of its protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

V2 = "/v2"
"""Path prefix of the Open Inference Protocol."""
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"
"""Paths of OpenAI's protocol. All paths but these and those below `V2` are ftray's own protocol."""

UNHEALTHY = "the model does not answer just now; the log of the service says why"
UNANSWERED = "the model could not answer; the log of the service says why"


class FaultDetail(BaseModel):
    message: str
    field: str | None = Field(description="Dotted path in the body; null: the request as a whole.")


class Fault(BaseModel):
    error: FaultDetail


class ProtocolFault(BaseModel):
    error: str


class OpenAIFaultDetail(BaseModel):
    message: str
    type: Literal["invalid_request_error", "server_error"]
    param: str | None = Field(description="Dotted path in the body; null: the request as a whole.")
    code: str | None = Field(description="For programs, where there is more than one reason.")


class OpenAIFault(BaseModel):
    error: OpenAIFaultDetail


class Refused(HTTPException):
    """An HTTPException about one field of the body."""

    def __init__(self, status: int, message: str, field: str, code: str | None = None) -> None:
        super().__init__(status, message)
        self.field = field
        self.code = code


def documented(shape: type[BaseModel], faults: Mapping[int, str]) -> dict[int | str, Any]:
    """Return the `responses` of a route: a description for each status, with bodies of this
    shape."""
    return {status: {"model": shape, "description": text} for status, text in faults.items()}


def fault(
    path: str,
    status: int,
    message: str,
    field: str | None = None,
    headers: Mapping[str, str] | None = None,
    code: str | None = None,
) -> JSONResponse:
    """Return the error response to a request for `path`."""
    # JSON can escape a lone surrogate (half a character), which UTF-8 cannot encode.
    message, field = _sendable(message), None if field is None else _sendable(field)
    told = _dialect(path).body(status, message, field, code)
    return JSONResponse(told.model_dump(), status, headers=dict(headers or {}))


def fault_of(path: str, errors: Sequence[Any], content_type: str) -> tuple[int, str, str | None]:
    """Return status, message and field for the first fault of a body that does not validate."""
    first, dialect = errors[0], _dialect(path)
    kind, where = first["type"], [str(part) for part in first["loc"][1:]]
    if kind == "json_invalid":
        return 400, f"the body is not JSON: {first['ctx']['error']}", None
    if not where and kind != "missing" and "json" not in content_type:
        return 415, "send JSON, with the header Content-Type: application/json", None
    if not where:
        return dialect.invalid, f"send a JSON object: {dialect.example}", None
    field = _shortened(".".join(where))
    return dialect.invalid, dialect.sentence(field, first), field


def fault_of_prompt(path: str, field: str, message: str) -> tuple[int, str, str]:
    """Return status, message and field for a valid body with a prompt that the model cannot
    answer."""
    dialect = _dialect(path)
    name, dot, place = field.partition(".")
    return dialect.invalid, message, f"{dialect.prompt}{dot}{place}" if name == "prompt" else field


@dataclass(frozen=True)
class _Dialect:
    """The form of the errors of one protocol."""

    body: Callable[[int, str, str | None, str | None], BaseModel]
    """Makes the body from the status, the message, the field and the code."""
    invalid: int
    """Status of the response where a field is wrong."""
    prompt: str
    """Name of the field with the prompt."""
    example: str
    sentences: Mapping[str, str]
    """Type of a pydantic error -> template of the message in place of pydantic's own."""

    def sentence(self, field: str, error: Mapping[str, Any]) -> str:
        message: str = error["msg"]
        told = {"field": field, "message": message[:1].lower() + message[1:]}
        template = self.sentences.get(error["type"], "{field}: {message}")
        return template.format_map({**error.get("ctx", {}), **told})


def _own(_: int, message: str, field: str | None, __: str | None) -> Fault:
    return Fault(error=FaultDetail(message=message, field=field))


def _bare(_: int, message: str, __: str | None, ___: str | None) -> ProtocolFault:
    return ProtocolFault(error=message)


def openai_fault(
    status: int, message: str, field: str | None = None, code: str | None = None
) -> OpenAIFault:
    kind: Any = "invalid_request_error" if status < 500 else "server_error"
    return OpenAIFault(error=OpenAIFaultDetail(message=message, type=kind, param=field, code=code))


_OWN = _Dialect(
    body=_own,
    invalid=422,
    prompt="inputs",
    example='{"inputs": ["a text", ...]}',
    sentences={
        "missing": "{field}: missing",
        "extra_forbidden": "{field}: unknown field; there are inputs and top_k",
        "list_type": "{field}: must be a text or a list of texts",
        "too_long": "{field}: {actual_length:,} texts; {max_length:,} a request is the limit",
    },
)
_INFERENCE = replace(_OWN, body=_bare, invalid=400)
_COMPLETIONS = _Dialect(
    body=openai_fault,
    invalid=400,
    prompt="prompt",
    example='{"model": "NAME", "prompt": "a text"}',
    sentences={
        "missing": "{field}: missing",
        "extra_forbidden": "Unrecognized request argument supplied: {field}",
        "list_type": "{field}: must be a list",
        "model_attributes_type": "{field}: must be an object",
        "too_long": "{field}: {actual_length:,} items; {max_length:,} is the limit",
    },
)
_CHAT = replace(
    _COMPLETIONS,
    prompt="messages",
    example='{"model": "NAME", "messages": [{"role": "user", "content": "a text"}]}',
)
_EMBEDDINGS = replace(
    _COMPLETIONS, prompt="input", example='{"model": "NAME", "input": ["a text", ...]}'
)
_OPENAI = {COMPLETIONS: _COMPLETIONS, CHAT: _CHAT, EMBEDDINGS: _EMBEDDINGS}


def _dialect(path: str) -> _Dialect:
    if path.startswith(V2):
        return _INFERENCE
    return _OPENAI.get(path, _OWN)


def _sendable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _shortened(field: str) -> str:
    return field if len(field) <= 80 else f"{field[:79]}…"
