"""What is said about a request that gets no answer: one message, in the shape of its protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from ftray.serve.messages import MAX_ROWS

V2 = "/v2"
"""Below it errors have the shape of the Open Inference Protocol."""


class FaultDetail(BaseModel):
    message: str
    field: str | None = Field(description="Dotted path in the body; null: the request as a whole.")


class Fault(BaseModel):
    error: FaultDetail


class ProtocolFault(BaseModel):
    error: str


def documented(shape: type[BaseModel], faults: Mapping[int, str]) -> dict[int | str, Any]:
    """`responses` of a route: status -> what it means, with bodies of this shape."""
    return {status: {"model": shape, "description": text} for status, text in faults.items()}


def fault(
    path: str,
    status: int,
    message: str,
    field: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """The answer to a request for `path`."""
    # Half a character, which JSON can escape, could not be sent back as it is.
    message, field = _sendable(message), None if field is None else _sendable(field)
    error: Any = message if path.startswith(V2) else {"message": message, "field": field}
    return JSONResponse({"error": error}, status, headers=dict(headers or {}))


def _sendable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


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
