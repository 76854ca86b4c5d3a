"""The bodies of requests and answers, and their limits."""

from __future__ import annotations

from typing import Annotated, Any, Literal

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
MAX_READ = 1_000_000
"""Most characters of one request that the tokenizer reads. Of a text that is far longer than the
model reads, the tokenizer reads only a part."""
MAX_BODY = 4 * 2**20
"""Bytes of the body of one request."""
MAX_STREAM = 32 * 2**20
"""Bytes of the body of one stream."""
MAX_TOGETHER = 256 * 2**20
"""Bytes of the bodies of all streams that a replica holds at once; as many again for the bodies of
all other requests."""
MAX_STREAM_ROWS = 100_000

Input = Annotated[str, StringConstraints(max_length=MAX_TEXT, strict=True)]
_TEXT_SCHEMA = {"type": "string", "minLength": 1, "maxLength": MAX_TEXT}
_INPUTS_SCHEMA = {
    "description": "One text, or several.",
    "anyOf": [
        _TEXT_SCHEMA,
        {"type": "array", "items": _TEXT_SCHEMA, "minItems": 1, "maxItems": MAX_ROWS},
    ],
}


def _as_list(inputs: Any) -> Any:
    return [inputs] if isinstance(inputs, str) else inputs


def _as_int(number: Any) -> Any:
    """Turn a whole float into an int: JSON makes no difference between 2 and 2.0."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


class PredictRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")
    inputs: Annotated[
        list[Input],
        Field(min_length=1, max_length=MAX_ROWS),
        BeforeValidator(_as_list),
        WithJsonSchema(_INPUTS_SCHEMA),
    ]
    top_k: Annotated[int, Field(ge=1, strict=True), BeforeValidator(_as_int)] | None = Field(
        None, description="Answer with that many labels, best first."
    )


class Label(BaseModel):
    label: str
    score: float


class Generated(BaseModel):
    """The answer of a model that generates: the text without the prompt."""

    generated_text: str


class Prediction(BaseModel):
    model: str
    version: int | None
    outputs: list[Label | list[Label] | Generated]


class ModelCard(BaseModel):
    """The description of a served model."""

    id: str
    """The model's path below /v1/models: its name, and its version where several are served."""
    object: Literal["model"] = "model"
    owned_by: str = "ftray"
    model: str
    version: int | None
    task: str
    labels: list[str]
    max_length: int
    """Tokens to which the model cuts a text. For a model that generates: tokens of a text in its
    training."""
    chat: bool
    """Whether the model was trained on chats: it then answers with a turn of a chat, and does not
    continue a text."""
    base: str
    run: str
    metrics: dict[str, dict[str, Any]]
    """Split -> metric -> value."""
    examples: list[str]
    """Texts to try: inputs of golden answers."""


class ModelCards(BaseModel):
    """A model in the list that OpenAI's protocol returns."""

    object: Literal["list"]
    data: list[ModelCard]


class Health(BaseModel):
    status: Literal["ok"]
    model: str
    version: int | None
