"""Makes the bodies of requests and answers from a model's signature: its inputs and its output, by
the kind of their values. A new task of known kinds needs nothing here."""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Annotated, Any, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    WithJsonSchema,
    create_model,
)
from typing_extensions import TypedDict

from ftray.models.artifact.manifest import ModelInfo
from ftray.serve.fields import FIELD_TYPES, ITEM_LIST
from ftray.serve.schemas import MAX_FILES, MAX_ROWS, MAX_TEXT, MAX_TEXTS, Input, as_int
from ftray.tasks.base import BadRow, Question
from ftray.tasks.info import FIELDS, Modality, Output
from ftray.tasks.vision.pixels import opened

Signature = tuple[tuple[str, Modality], ...]
"""The inputs of a model: name and kind of value of each."""


class Label(BaseModel):
    label: str
    score: float


class Generated(BaseModel):
    """The text that a model generates, without the prompt."""

    generated_text: str


class Score(BaseModel):
    """One number, or several where the model gives several."""

    score: float | list[float]


class SpanAnswer(BaseModel):
    """A part of the context, by its first character and the one behind it; empty where the context
    has no answer."""

    score: float
    start: int
    end: int
    answer: str


class Entity(BaseModel):
    """A part of the text with its label, by its first character and the one behind it."""

    entity_group: str
    score: float
    word: str
    start: int
    end: int


class Item(BaseModel):
    """An item that comes next."""

    item: str
    score: float


class Fill(BaseModel):
    """A token for a hidden one, and the text with it."""

    score: float
    token: int
    token_str: str
    sequence: str


class Ranked(BaseModel):
    """A passage of the request; index: its place there."""

    index: int
    score: float
    text: str


OUTPUTS: Mapping[Output, Any] = {
    "labels": Label | list[Label],
    "label_set": list[Label],
    "text": Generated,
    "written": Generated,
    "numbers": Score,
    "span": SpanAnswer | list[SpanAnswer],
    "entities": list[Entity],
    "fills": list[Fill] | list[list[Fill]],
    "embedding": list[float],
    "ranking": list[Ranked],
    "items": list[Item],
}
"""Kind of an answer -> the shape of one output."""


def image_of(value: bytes) -> bytes:
    """Return the content of an image. Raises ValueError where it is none, or too large: only its
    head is read here."""
    try:
        opened(value)
    except BadRow as fault:
        raise ValueError(f"{fault.kind.replace('_', ' ')}: {fault.detail}") from None
    return value


def _decoded(value: Any) -> bytes:
    """Return the bytes of a base64 text, or of a data URL."""
    if not isinstance(value, str):
        raise ValueError("an image is sent as a text in base64")
    if "://" in value[:16]:
        raise ValueError("an image is sent itself, in base64, and not by its URL")
    if value.startswith("data:"):
        value = value.partition(",")[2]
    try:
        return image_of(b64decode(value, validate=True))
    except NotBase64:
        raise ValueError("not base64") from None


_TEXT_SCHEMA = {"type": "string", "minLength": 1, "maxLength": MAX_TEXT}
_KINDS: Mapping[Modality, Any] = {
    "text": Annotated[Input, WithJsonSchema(_TEXT_SCHEMA)],
    "texts": Annotated[
        list[Annotated[Input, WithJsonSchema(_TEXT_SCHEMA)]],
        Field(min_length=1, max_length=MAX_TEXTS),
    ],
    "image": Annotated[
        bytes,
        BeforeValidator(_decoded),
        WithJsonSchema({"type": "string", "contentEncoding": "base64", "maxLength": MAX_FILES}),
    ],
    "items": ITEM_LIST,
    **FIELD_TYPES,
}
"""Kind of an input -> its type in JSON."""


def signature(info: ModelInfo) -> Signature:
    """Return the signature of a model."""
    return tuple(info.inputs.items())


def is_file(kind: Modality) -> bool:
    """Return whether an input of this kind is a file, which a form may hold."""
    return kind == "image"


def is_record(of: Signature) -> bool:
    """Return whether the inputs are the fields of a record, each of which may be left out."""
    return all(kind in FIELDS for _, kind in of)


def is_object(of: Signature) -> bool:
    """Return whether one input is an object with a value for each input of the model."""
    return len(of) > 1 or is_record(of) or any(kind == "items" for _, kind in of)


@lru_cache
def input_type(of: Signature) -> Any:
    """Return the type of one input: its value, or an object where a model has several, or reads
    records or lists."""
    if not is_object(of):
        return _KINDS[of[0][1]]
    if is_record(of):
        # Names of columns may be any text, which no model of pydantic has as fields.
        types = {name: _KINDS[kind] for name, kind in of}
        record = cast(Any, TypedDict)("Record", types, total=False)
        record.__pydantic_config__ = ConfigDict(extra="forbid")
        return record
    fields: dict[str, Any] = {name: (_KINDS[kind], ...) for name, kind in of}
    return create_model("Inputs", __config__=ConfigDict(extra="forbid"), **fields)


@lru_cache
def request_type(of: Signature) -> type[BaseModel]:
    """Return the body of a request: one input or several, and options."""
    one = input_type(of)
    schema = TypeAdapter(one).json_schema()
    several = {"type": "array", "items": schema, "minItems": 1, "maxItems": MAX_ROWS}
    inputs = Annotated[
        list[one],  # type: ignore[valid-type]
        Field(min_length=1, max_length=MAX_ROWS),
        BeforeValidator(lambda given: [given] if isinstance(given, (str, dict)) else given),
        WithJsonSchema({"description": "One input, or several.", "anyOf": [schema, several]}),
    ]
    top_k = Annotated[int, Field(ge=1, strict=True), BeforeValidator(as_int)]
    told = Field(None, description="Give that many answers for each input, best first.")
    return create_model(
        "PredictRequest",
        __config__=ConfigDict(extra="forbid"),
        inputs=(inputs, ...),
        top_k=(top_k | None, told),
    )


def question_of(value: Any) -> Question:
    """Return the question of a validated input."""
    return value.model_dump() if isinstance(value, BaseModel) else value


def request_schema(models: Iterable[ModelInfo]) -> dict[str, Any]:
    """Return the JSON schema of a request to one of several models."""
    signatures = list(dict.fromkeys(map(signature, models)))
    schemas = [inlined(request_type(each).model_json_schema()) for each in signatures]
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def prediction_type(models: Iterable[ModelInfo]) -> type[BaseModel]:
    """Return the body of the answer of one of several models."""
    outputs: Any = None
    for kind in dict.fromkeys(info.kind.output for info in models):
        outputs = OUTPUTS[kind] if outputs is None else outputs | OUTPUTS[kind]
    fields: dict[str, Any] = {
        "model": (str, ...),
        "version": (int | None, ...),
        "outputs": (list[outputs], ...),
    }
    return cast(type[BaseModel], create_model("Prediction", **fields))


def inlined(schema: Mapping[str, Any]) -> Any:
    """Return a JSON schema with each reference replaced by its definition: in the OpenAPI document,
    the references would point to nothing."""
    return _inlined(schema, schema.get("$defs", {}))


def _inlined(schema: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_inlined(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if name := str(schema.get("$ref", "")).rpartition("/")[2]:
        return _inlined(definitions[name], definitions)
    return {key: _inlined(part, definitions) for key, part in schema.items() if key != "$defs"}
