"""The bodies of requests and answers, their limits, and what is said about a wrong one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi.responses import JSONResponse
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
)

MAX_ROWS = 1024
MAX_TEXT = 100_000
"""Characters of one text."""
MAX_BODY = 4 * 2**20
"""Bytes of one request."""

Input = Annotated[str, StringConstraints(max_length=MAX_TEXT, strict=True)]
_TEXT_SCHEMA = {"type": "string", "maxLength": MAX_TEXT}
_INPUTS_SCHEMA = {
    "description": "One text, or several.",
    "anyOf": [
        _TEXT_SCHEMA,
        {"type": "array", "items": _TEXT_SCHEMA, "minItems": 1, "maxItems": MAX_ROWS},
    ],
}


def _as_list(inputs: Any) -> Any:
    return [inputs] if isinstance(inputs, str) else inputs


class PredictRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")
    inputs: Annotated[
        list[Input],
        Field(min_length=1, max_length=MAX_ROWS),
        BeforeValidator(_as_list),
        WithJsonSchema(_INPUTS_SCHEMA),
    ]
    top_k: Annotated[int, Field(ge=1, strict=True)] | None = Field(
        None, description="Answer with that many labels, best first."
    )


class Label(BaseModel):
    label: str
    score: float


class Prediction(BaseModel):
    model: str
    version: int | None
    outputs: list[Label | list[Label]]


class Health(BaseModel):
    status: Literal["ok"]
    model: str
    version: int | None


class FaultDetail(BaseModel):
    message: str
    field: str | None = Field(description="Dotted path in the body; null: the request as a whole.")


class Fault(BaseModel):
    error: FaultDetail


def fault(
    status: int, message: str, field: str | None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """The one shape of every error."""
    # Half a character, which JSON can escape, could not be sent back as it is.
    safe = None if field is None else field.encode("utf-8", "backslashreplace").decode()
    return JSONResponse(
        {"error": {"message": message, "field": safe}}, status, headers=dict(headers or {})
    )


def fault_of(errors: Sequence[Any], content_type: str) -> tuple[int, str, str | None]:
    """Status, message and field for a body that does not validate: its first fault."""
    first = errors[0]
    kind, path = first["type"], [str(part) for part in first["loc"][1:]]
    if kind == "json_invalid":
        return 400, f"the body is not JSON: {first['ctx']['error']}", None
    if not path and kind != "missing" and "json" not in content_type:
        return 415, "send JSON, with the header Content-Type: application/json", None
    if not path:
        return 422, 'send a JSON object: {"inputs": ["a text", ...]}', None
    field = ".".join(path)
    return 422, f"{_shortened(field)}: {_sentence(kind, first)}", _shortened(field)


def _sentence(kind: str, error: Mapping[str, Any]) -> str:
    if kind == "extra_forbidden":
        return "unknown field; there are inputs and top_k"
    if kind == "missing":
        return "missing"
    if kind == "list_type":
        return "must be a text or a list of texts"
    if kind == "too_long":
        return f"{error['ctx']['actual_length']:,} texts; {MAX_ROWS:,} a request is the limit"
    message: str = error["msg"]
    return message[:1].lower() + message[1:]


def _shortened(field: str) -> str:
    return field if len(field) <= 80 else f"{field[:79]}…"
