"""The bodies of the Open Inference Protocol, version 2: texts in, tensors out.

Texts come in the JSON, or behind the JSON as Triton's binary tensors.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from fastapi import HTTPException
from pydantic import BaseModel, Field, ValidationError

from ftray.serve.schemas import MAX_ROWS, MAX_TEXT
from ftray.tasks.info import Output

INPUT = "text"
OUTPUTS: dict[Output, tuple[str, ...]] = {
    "labels": ("label", "score", "probabilities"),
    "text": ("generated_text",),
}
"""Output names of a model, by the modality of its answers."""
HEADER_LENGTH = "inference-header-content-length"
_SIZE = "binary_data_size"
_BLOB = struct.Struct("<I")  # the length before each element of a BYTES tensor


class Tensor(BaseModel):
    name: str = Field(json_schema_extra={"const": INPUT})
    shape: list[int] = Field(json_schema_extra={"minItems": 1, "maxItems": 2})
    datatype: str = Field(json_schema_extra={"const": "BYTES"})
    parameters: dict[str, Any] = {}
    data: Any = None


class WantedOutput(BaseModel):
    name: str = Field(
        json_schema_extra={"enum": [name for names in OUTPUTS.values() for name in names]}
    )


class InferRequest(BaseModel):
    id: str | None = None
    inputs: list[Tensor] = Field(min_length=1, json_schema_extra={"maxItems": 1})
    outputs: list[WantedOutput] = []


class OutputTensor(BaseModel):
    name: str
    datatype: str
    shape: list[int]
    data: list[str] | list[float]


class InferResponse(BaseModel):
    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


def output_tensors(
    answers: Sequence[Any], output: Output, labels: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return the output tensors by their names. answers: for each row, all labels with their
    scores, best first; or the generated text."""
    count = len(answers)
    if output == "text":
        (name,) = OUTPUTS[output]
        return {name: _tensor(name, "BYTES", [count], [row[name] for row in answers])}
    rows = [{item["label"]: item["score"] for item in row} for row in answers]
    best = [row[0] for row in answers]
    probabilities = [row[label] for row in rows for label in labels]
    return {
        "label": _tensor("label", "BYTES", [count], [item["label"] for item in best]),
        "score": _tensor("score", "FP32", [count], [item["score"] for item in best]),
        "probabilities": _tensor("probabilities", "FP32", [count, len(labels)], probabilities),
    }


def _tensor(name: str, kind: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": kind, "shape": shape, "data": data}


def read_request(
    body: bytes, announced: str | None, outputs: Sequence[str]
) -> tuple[InferRequest, list[str]]:
    """Parse a body: return the request and its texts. announced: bytes of JSON at the start of the
    body, where binary data follow; outputs: names of the model's outputs. Raises HTTPException
    400."""
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
    if len(request.inputs) != 1 or request.inputs[0].name != INPUT:
        names = ", ".join(tensor.name for tensor in request.inputs)[:80]
        raise _wrong(f"inputs: one tensor with the name {INPUT} is wanted, and here are: {names}")
    tensor = request.inputs[0]
    if tensor.datatype != "BYTES":
        raise _wrong(f"inputs.0.datatype: BYTES is wanted, not {tensor.datatype[:40]}")
    size = tensor.parameters.get(_SIZE)
    texts = list(_flat(tensor.data)) if size is None else _unpacked(body[end:], size)
    _check_texts(tensor, texts)
    _check_outputs(request.outputs, outputs)
    return request, texts


def _check_outputs(wanted: Sequence[WantedOutput], there: Sequence[str]) -> None:
    if unknown := [output.name for output in wanted if output.name not in there]:
        raise _wrong(f"no output {unknown[0][:80]}; there are {', '.join(there)}")


def _check_texts(tensor: Tensor, texts: Sequence[Any]) -> None:
    if len(tensor.shape) not in (1, 2) or tensor.shape[1:] not in ([], [1]):
        raise _wrong(f"inputs.0.shape: [n] or [n, 1] is wanted, not {str(tensor.shape)[:80]}")
    if math.prod(tensor.shape) != len(texts):
        raise _wrong(f"inputs.0: the shape says {tensor.shape[0]} texts, the data {len(texts)}")
    if not 1 <= len(texts) <= MAX_ROWS:
        raise _wrong(f"inputs.0: {len(texts):,} texts; 1 to {MAX_ROWS:,} a request are taken")
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise _wrong(f"inputs.0.data.{place}: a text is wanted, not {json.dumps(text)[:40]}")
        if len(text) > MAX_TEXT:
            raise _wrong(f"inputs.0.data.{place}: {MAX_TEXT:,} characters are the limit")


def _flat(data: Any) -> Iterator[Any]:
    """Yield the texts of JSON data in shape [n] or [n, 1]."""
    if not isinstance(data, list):
        raise _wrong("inputs.0.data: a list of texts is wanted")
    for row in data:
        yield row[0] if isinstance(row, list) and len(row) == 1 else row


def _unpacked(blob: bytes, size: Any) -> list[str]:
    if size != len(blob):
        raise _wrong(f"inputs.0.parameters.{_SIZE}: {size!s:.40} bytes, and {len(blob)} came")
    texts: list[str] = []
    at = 0
    while at < len(blob):
        start = at + _BLOB.size
        (length,) = _BLOB.unpack_from(blob, at) if start <= len(blob) else (len(blob),)
        if start + length > len(blob):
            raise _wrong(f"inputs.0: text {len(texts)} ends behind the data")
        try:
            texts.append(blob[start : start + length].decode())
        except UnicodeDecodeError:
            raise _wrong(f"inputs.0: text {len(texts)} is not UTF-8") from None
        at = start + length
    return texts


def _wrong(message: str) -> HTTPException:
    return HTTPException(400, message)
