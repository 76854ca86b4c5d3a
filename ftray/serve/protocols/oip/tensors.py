"""The bodies of requests by the Open Inference Protocol, version 2: a tensor for each input, of
BYTES, or of numbers where an input is a number.

Values come in the JSON, files in base64, or behind the JSON as Triton's binary tensors.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from fastapi import HTTPException
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from ftray.serve.fields import FIELD_TYPES, ITEM_LIST
from ftray.serve.schemas import MAX_ROWS, MAX_TEXT
from ftray.serve.signature import (
    Signature,
    image_of,
    input_type,
    is_file,
    is_object,
    is_record,
)
from ftray.tasks.base import Question
from ftray.tasks.info import FIELDS, Modality

HEADER_LENGTH = "inference-header-content-length"
_SIZE = "binary_data_size"
_BLOB = struct.Struct("<I")  # the length before each element of a BYTES tensor


_NUMBERS = {"FP64": "<d", "FP32": "<f", "INT64": "<q", "INT32": "<i"}
"""Datatype of numbers -> struct's code of an element."""


class Tensor(BaseModel):
    name: str
    shape: list[int] = Field(json_schema_extra={"minItems": 1, "maxItems": 2})
    datatype: str = Field(json_schema_extra={"enum": ["BYTES", *_NUMBERS]})
    parameters: dict[str, Any] = {}
    data: Any = None


class WantedOutput(BaseModel):
    name: str


class InferRequest(BaseModel):
    id: str | None = None
    inputs: list[Tensor] = Field(min_length=1)
    outputs: list[WantedOutput] = []


class OutputTensor(BaseModel):
    name: str
    datatype: str
    shape: list[int]
    data: list[str] | list[int] | list[float]


class InferResponse(BaseModel):
    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


def read_request(
    body: bytes, announced: str | None, of: Signature, outputs: Sequence[str]
) -> tuple[InferRequest, list[Question]]:
    """Parse a body: return the request and its questions, from one tensor for each input of the
    model. announced: bytes of JSON at the start of the body, where binary data follow; outputs:
    names of the model's outputs. Raises HTTPException 400."""
    end = len(body)
    if announced is not None:
        if not announced.isdigit() or int(announced) > len(body):
            raise _wrong(f"{HEADER_LENGTH}: {announced} is no length of a part of the body")
        end = int(announced)
    try:
        request = InferRequest.model_validate_json(body[:end])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise _wrong(f"{where or 'the body'}: {first['msg']}"[:300]) from None
    _check_names([tensor.name for tensor in request.inputs], of)
    columns = _columns(request.inputs, body[end:], of)
    _check_outputs(request.outputs, outputs)
    if not is_object(of):
        return request, columns[of[0][0]]
    names = [name for name, _ in of if name in columns]
    rows = zip(*(columns[name] for name in names), strict=True)
    return request, [dict(zip(names, row, strict=True)) for row in rows]


def _check_names(given: Sequence[str], of: Signature) -> None:
    """Raise HTTPException unless there is a tensor for each input; for the fields of a record, one
    at most."""
    names = [name for name, _ in of]
    each = len(set(given)) == len(given)
    if each and (set(given) <= set(names) if is_record(of) else set(given) == set(names)):
        return
    several = f"one tensor each with {'some of ' * is_record(of)}the names {', '.join(names)}"
    wanted = f"one tensor with the name {names[0]}" if len(names) == 1 else several
    raise _wrong(f"inputs: {wanted} is wanted, and here are: {', '.join(given)[:80]}")


def _columns(tensors: Sequence[Tensor], blob: bytes, of: Signature) -> dict[str, list[Any]]:
    """Return the values of each input, one for each row. Raises HTTPException 400."""
    kinds, at = dict(of), 0
    columns: dict[str, list[Any]] = {}
    for place, tensor in enumerate(tensors):
        where = f"inputs.{place}"
        kind = kinds[tensor.name]
        allowed = _NUMBERS if kind == "number" else ()
        if tensor.datatype not in ("BYTES", *allowed):
            wanted = ", ".join([*allowed, "BYTES"])
            raise _wrong(f"{where}.datatype: {wanted} is wanted, not {tensor.datatype[:40]}")
        size = tensor.parameters.get(_SIZE)
        if size is None:
            values: list[Any] = list(_flat(tensor.data, where))
        else:
            rest = len(tensors) - place > 1
            part = blob[at : at + size] if rest and isinstance(size, int) else blob[at:]
            values = _unpacked(part, size, where, tensor.datatype)
            at += len(part)
        _check_shape(tensor, values, where)
        columns[tensor.name] = [
            _value(value, kind, size is not None, f"{where}.data.{row}")
            for row, value in enumerate(values)
        ]
    if len(set(map(len, columns.values()))) > 1:
        raise _wrong("inputs: the tensors differ in their number of rows")
    return columns


def _value(value: Any, kind: Modality, binary: bool, where: str) -> Any:
    """Return one value of an input: a text; several texts or items, which a tensor has as JSON; or
    the bytes of a file, which JSON has in base64. Raises HTTPException 400."""
    try:
        if is_file(kind):
            return (
                image_of(value)
                if binary
                else TypeAdapter(input_type((("", kind),))).validate_python(value)
            )
        text = value.decode() if isinstance(value, bytes) else value
        if kind in FIELDS:
            return TypeAdapter(FIELD_TYPES[kind]).validate_python(text)
        if kind == "texts":
            return TypeAdapter(input_type((("", kind),))).validate_json(text)
        if kind == "items":
            return TypeAdapter(ITEM_LIST).validate_python(text)
    except UnicodeDecodeError:
        raise _wrong(f"{where}: is not UTF-8") from None
    except (ValidationError, ValueError) as error:
        told = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise _wrong(f"{where}: {told}"[:300]) from None
    if not isinstance(text, str):
        raise _wrong(f"{where}: a text is wanted, not {json.dumps(text)[:40]}")
    if len(text) > MAX_TEXT:
        raise _wrong(f"{where}: {MAX_TEXT:,} characters are the limit")
    return text


def _check_outputs(wanted: Sequence[WantedOutput], there: Sequence[str]) -> None:
    if unknown := [output.name for output in wanted if output.name not in there]:
        raise _wrong(f"no output {unknown[0][:80]}; there are {', '.join(there)}")


def _check_shape(tensor: Tensor, values: Sequence[Any], where: str) -> None:
    if len(tensor.shape) not in (1, 2) or tensor.shape[1:] not in ([], [1]):
        raise _wrong(f"{where}.shape: [n] or [n, 1] is wanted, not {str(tensor.shape)[:80]}")
    if math.prod(tensor.shape) != len(values):
        raise _wrong(f"{where}: the shape says {tensor.shape[0]} rows, the data {len(values)}")
    if not 1 <= len(values) <= MAX_ROWS:
        raise _wrong(f"{where}: {len(values):,} rows; 1 to {MAX_ROWS:,} a request are taken")


def _flat(data: Any, where: str) -> Iterator[Any]:
    """Yield the values of JSON data in shape [n] or [n, 1]."""
    if not isinstance(data, list):
        raise _wrong(f"{where}.data: a list is wanted")
    for row in data:
        yield row[0] if isinstance(row, list) and len(row) == 1 else row


def _unpacked(blob: bytes, size: Any, where: str, datatype: str) -> list[Any]:
    """Return the elements of a binary tensor; those of BYTES have their length before them."""
    if size != len(blob):
        raise _wrong(f"{where}.parameters.{_SIZE}: {size!s:.40} bytes, and {len(blob)} came")
    if datatype in _NUMBERS:
        code = struct.Struct(_NUMBERS[datatype])
        if len(blob) % code.size:
            raise _wrong(f"{where}: {len(blob)} bytes are no whole number of {datatype}")
        return [number for (number,) in code.iter_unpack(blob)]
    values: list[bytes] = []
    at = 0
    while at < len(blob):
        start = at + _BLOB.size
        (length,) = _BLOB.unpack_from(blob, at) if start <= len(blob) else (len(blob),)
        if start + length > len(blob):
            raise _wrong(f"{where}: element {len(values)} ends behind the data")
        values.append(blob[start : start + length])
        at = start + length
    return values


def _wrong(message: str) -> HTTPException:
    return HTTPException(400, message)
