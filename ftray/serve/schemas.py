"""The limits of bodies, and the bodies that do not depend on a model's task."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, StringConstraints

MAX_ROWS = 1024
MAX_TEXT = 100_000
"""Characters of one text."""
MAX_TEXTS = 1024
"""Texts of one input that is a list of them."""
MAX_ITEMS = 10_000
"""Items of one list."""
MAX_READ = 1_000_000
"""Most characters of one request that the tokenizer reads. Of a text that is far longer than the
model reads, the tokenizer reads only a part."""
MAX_BODY = 4 * 2**20
"""Bytes of the body of one request."""
MAX_FILES = 32 * 2**20
"""Bytes of the body of one request, where a served model reads images."""
MAX_STREAM = 32 * 2**20
"""Bytes of the body of one stream."""
MAX_TOGETHER = 256 * 2**20
"""Bytes of the bodies of all streams that a replica holds at once; as many again for the bodies of
all other requests."""
MAX_STREAM_ROWS = 100_000

Input = Annotated[str, StringConstraints(max_length=MAX_TEXT, strict=True)]


def as_int(number: Any) -> Any:
    """Turn a whole float into an int: JSON makes no difference between 2 and 2.0."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


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
    inputs: dict[str, str]
    """Input of a request -> kind of its value: text, image."""
    output: str
    """Kind of an answer: labels, numbers, span, text."""
    base: str
    run: str
    metrics: dict[str, dict[str, Any]]
    """Split -> metric -> value."""
    examples: list[Any]
    """Inputs to try: those of golden answers."""


class ModelCards(BaseModel):
    """A model in the list that OpenAI's protocol returns."""

    object: Literal["list"]
    data: list[ModelCard]


class Health(BaseModel):
    status: Literal["ok"]
    model: str
    version: int | None
