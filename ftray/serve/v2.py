"""The Open Inference Protocol, version 2, over HTTP: what clients of KServe, Triton and MLServer
speak (https://github.com/kserve/open-inference-protocol), with Triton's binary tensors as input.

One input, `text`, BYTES of shape [n] or [n, 1]. Three outputs: `label`, BYTES [n]; `score`, FP32
[n]; `probabilities`, FP32 [n, C], in the order of the labels that the metadata name.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, ValidationError

from ftray import __version__
from ftray.serve.backend import Backend
from ftray.serve.faults import V2, ProtocolFault
from ftray.serve.messages import MAX_ROWS, MAX_TEXT

PREFIX, INFER = V2, "/infer"
HEALTH = (f"{PREFIX}/health/live", f"{PREFIX}/health/ready")
PLATFORM = "ftray"
INPUT, OUTPUTS = "text", ("label", "score", "probabilities")
_HEADER_LENGTH = "inference-header-content-length"
_SIZE = "binary_data_size"
_BLOB = struct.Struct("<I")  # before each element of a BYTES tensor: its length


class Tensor(BaseModel):
    name: str
    shape: list[int]
    datatype: str
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
    data: list[str] | list[float]


class InferResponse(BaseModel):
    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


_FAULTS: dict[int | str, dict[str, Any]] = {
    400: {"model": ProtocolFault, "description": "The request is wrong."},
    404: {"model": ProtocolFault, "description": "Another model or version is served here."},
    413: {"model": ProtocolFault, "description": "The body is too long."},
    422: {"model": ProtocolFault, "description": "The path is malformed."},
    503: {"model": ProtocolFault, "description": "Too many rows wait: see Retry-After."},
}


def _inlined(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """`schema` with what it refers to in place: its definitions would be in another document."""
    if isinstance(schema, list):
        return [_inlined(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if name := str(schema.get("$ref", "")).rpartition("/")[2]:
        return _inlined(definitions[name], definitions)
    return {key: _inlined(part, definitions) for key, part in schema.items() if key != "$defs"}


_SCHEMA = InferRequest.model_json_schema()
_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": _inlined(_SCHEMA, _SCHEMA["$defs"])}},
    }
}


def v2_routes(backend: Backend) -> APIRouter:
    """The protocol's paths for the one model of `backend`."""
    routes = APIRouter(prefix=PREFIX, responses={code: _FAULTS[code] for code in (404, 422)})
    version = str(backend.version or 1)
    model = "/models/{name}"
    versioned = model + "/versions/{version}"

    def check(name: str, asked: str | None) -> None:
        if name != backend.name or asked not in (None, version):
            found = name if asked is None else f"{name} version {asked}"
            here = f"here is {backend.name}, version {version}"
            raise HTTPException(404, f"no model {found}; {here}")

    @routes.get("", responses={})
    async def server() -> Any:
        """The server."""
        return {"name": PLATFORM, "version": __version__, "extensions": ["binary_tensor_data"]}

    @routes.get("/health/live")
    async def live() -> Any:
        """Whether requests are taken."""
        return {"live": True}

    @routes.get("/health/ready")
    async def ready() -> Any:
        """Whether the model answers: a replica exists only after its golden answers."""
        return {"ready": True}

    @routes.get(model)
    @routes.get(versioned)
    async def metadata(name: str, version: str | None = None) -> Any:
        """Inputs and outputs of the model."""
        check(name, version)
        return _metadata(backend)

    @routes.get(model + "/ready")
    @routes.get(versioned + "/ready")
    async def model_ready(name: str, version: str | None = None) -> Any:
        """Whether the model answers."""
        check(name, version)
        return {"name": name, "ready": True}

    options: dict[str, Any] = {
        "response_model": InferResponse,
        "response_model_exclude_none": True,
        "responses": _FAULTS,
        "openapi_extra": _BODY,
    }

    @routes.post(model + INFER, **options)
    @routes.post(versioned + INFER, **options)
    async def infer(http: Request, name: str, version: str | None = None) -> Any:
        """One label, score and row of probabilities for each text."""
        check(name, version)
        request, texts = _parse(await http.body(), http.headers.get(_HEADER_LENGTH))
        wanted = [output.name for output in request.outputs] or list(OUTPUTS)
        if unknown := [name for name in wanted if name not in OUTPUTS]:
            raise _wrong(f"no output {unknown[0]}; there are {', '.join(OUTPUTS)}")
        answers = await backend.answer(texts, len(backend.info.labels))
        tensors = _outputs(answers, backend.info.labels)
        body = {"model_name": backend.name, "model_version": str(backend.version or 1)}
        if request.id is not None:
            body["id"] = request.id
        return JSONResponse({**body, "outputs": [tensors[name] for name in wanted]})

    return routes


def _metadata(backend: Backend) -> dict[str, Any]:
    labels = backend.info.labels
    shapes = {"label": ("BYTES", [-1]), "score": ("FP32", [-1])}
    shapes["probabilities"] = ("FP32", [-1, len(labels)])
    return {
        "name": backend.name,
        "versions": [str(backend.version or 1)],
        "platform": PLATFORM,
        "inputs": [{"name": INPUT, "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {"name": name, "datatype": kind, "shape": shape}
            for name, (kind, shape) in shapes.items()
        ],
        "parameters": {"labels": list(labels)},
    }


def _outputs(answers: Sequence[Any], labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`answers`: of each row all labels with their scores, best first."""
    rows = [{item["label"]: item["score"] for item in row} for row in answers]
    best = [row[0] for row in answers]
    count = len(rows)

    def tensor(name: str, kind: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
        return {"name": name, "datatype": kind, "shape": shape, "data": data}

    probabilities = [row[label] for row in rows for label in labels]
    return {
        "label": tensor("label", "BYTES", [count], [item["label"] for item in best]),
        "score": tensor("score", "FP32", [count], [item["score"] for item in best]),
        "probabilities": tensor("probabilities", "FP32", [count, len(labels)], probabilities),
    }


def _parse(body: bytes, announced: str | None) -> tuple[InferRequest, list[str]]:
    """The request and its texts. Raises HTTPException 400."""
    end = len(body)
    if announced is not None:
        if not announced.isdigit() or int(announced) > len(body):
            raise _wrong(f"{_HEADER_LENGTH}: {announced} is no length of a part of the body")
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
    return request, texts


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
    """Of rows, or of rows of one element."""
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
