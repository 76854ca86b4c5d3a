"""Reads the body of a prediction request, in JSON or as a form with files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from ftray.serve.schemas import MAX_FILES, MAX_ROWS
from ftray.serve.signature import Signature, image_of, is_file, question_of, request_type
from ftray.tasks.base import Question

FORM = "multipart/form-data"


@dataclass(frozen=True)
class Asked:
    """A request: its questions, and how many answers it wants for each."""

    questions: list[Question]
    top_k: int | None


async def read_request(http: Request, of: Signature) -> Asked:
    """Read a request for a model with this signature. Raises RequestValidationError for a body that
    is no such request."""
    announced = http.headers.get("content-type", "")
    if announced.startswith(FORM) and any(is_file(kind) for _, kind in of):
        return await _form(http, of)
    body = await http.body()
    if not body:
        raise _fault("missing", "Field required")
    if "json" not in announced:
        raise _fault("model_attributes_type", "Input should be an object")
    if any(is_file(kind) for _, kind in of):  # decoding base64 takes a while
        return await run_in_threadpool(_validated, body, of)
    return _validated(body, of)


def _validated(body: bytes, of: Signature) -> Asked:
    try:
        request: Any = request_type(of).model_validate(json.loads(body))
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        within = [{**fault, "loc": ("body", *fault["loc"])} for fault in faults]
        raise RequestValidationError(within) from None
    except (ValueError, RecursionError) as error:
        told = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise _fault("json_invalid", "JSON decode error", error=told) from None
    return Asked([question_of(each) for each in request.inputs], request.top_k)


def _fault(kind: str, message: str, field: str = "", **context: str) -> Exception:
    """Return the error about a field of the body, or about the body as a whole."""
    where = ("body", field) if field else ("body",)
    return RequestValidationError([{"type": kind, "loc": where, "msg": message, "ctx": context}])


async def _form(http: Request, of: Signature) -> Asked:
    """Read a form: a part for each input, named after it, and `top_k`. Parts of the same name are
    several inputs, in their order."""
    async with http.form(
        max_files=MAX_ROWS, max_fields=len(of) * MAX_ROWS + 1, max_part_size=MAX_FILES
    ) as form:
        parts = {name: form.getlist(name) for name, _ in of}
        if unknown := set(form) - {*parts, "top_k"}:
            known = ", ".join([*parts, "top_k"])
            raise _fault("value_error", f"unknown part; there are {known}", min(unknown))
        columns = {
            name: [await _content(part) for part in of_name] for name, of_name in parts.items()
        }
        top_k = form.get("top_k")
    counts = {name: len(values) for name, values in columns.items()}
    if not all(counts.values()):
        raise _fault("missing", "missing", next(name for name in counts if not counts[name]))
    if len(set(counts.values())) > 1:
        raise _fault("value_error", f"parts differ in number: {counts}", next(iter(counts)))
    rows = [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    questions = await run_in_threadpool(_checked, rows, of)
    return Asked(questions, None if top_k is None else _number(top_k))


async def _content(part: UploadFile | str) -> bytes | str:
    return await part.read() if isinstance(part, UploadFile) else part


def _number(value: Any) -> int:
    try:
        return TypeAdapter(int).validate_python(value)
    except ValidationError:
        raise _fault("int_parsing", "must be a whole number", "top_k") from None


def _checked(rows: list[dict[str, Any]], of: Signature) -> list[Question]:
    """Return the questions of a form. Raises RequestValidationError."""
    for place, row in enumerate(rows):
        for name, kind in of:
            value = row[name]
            if is_file(kind) != isinstance(value, bytes):
                what = "send it as a file" if is_file(kind) else "send it as a field"
                raise _fault("value_error", what, f"{name}.{place}")
            if is_file(kind):
                try:
                    image_of(value)
                except ValueError as error:
                    raise _fault("value_error", str(error), f"{name}.{place}") from None
    return [next(iter(row.values())) if len(of) == 1 else row for row in rows]
