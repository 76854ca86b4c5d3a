"""The answer bodies of OpenAI's protocol: whole answers, and chunks of a stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from pydantic import BaseModel

Finish = Literal["stop", "length"]


class Usage(BaseModel):
    """Tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class EmbeddingUsage(BaseModel):
    """Tokens."""

    prompt_tokens: int
    total_tokens: int


class Embedding(BaseModel):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str
    """A text: the base64 of the numbers as little-endian float32."""


class Embeddings(BaseModel):
    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class _Choice(BaseModel):
    index: int
    logprobs: None
    finish_reason: Finish | None
    """null: there is more to come."""


class TextChoice(_Choice):
    text: str


class ChatAnswer(BaseModel):
    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(_Choice):
    message: ChatAnswer


class Delta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None


class DeltaChoice(_Choice):
    delta: Delta


class Answer(BaseModel):
    """Whole, or a chunk. What is not set in a chunk is not told."""

    id: str
    created: int
    model: str
    usage: Usage | None = None


class Completion(Answer):
    object: Literal["text_completion"]
    choices: list[TextChoice]


class ChatCompletion(Answer):
    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class ChatChunk(Answer):
    object: Literal["chat.completion.chunk"]
    choices: list[DeltaChoice]


@dataclass(frozen=True)
class Form:
    """The differences between the answers of the completions path and the chat path.

    prefix: beginning of an answer's id.
    whole, chunk: make a whole answer, or a chunk, from its parts.
    choice: makes a choice of a whole answer from its index, its text and its finish reason.
    grown: makes a choice of a chunk from its index, and its new text or its finish reason.
    opening: makes a choice of the chunk before any text; None where there is no such chunk.
    """

    prefix: str
    whole: Callable[..., Answer]
    chunk: Callable[..., Answer]
    choice: Callable[[int, str, Finish | None], BaseModel]
    grown: Callable[[int, str, Finish | None], BaseModel]
    opening: Callable[[int], BaseModel] | None = None


def _text(index: int, text: str, finish: Finish | None) -> TextChoice:
    return TextChoice(index=index, text=text, logprobs=None, finish_reason=finish)


def _message(index: int, text: str, finish: Finish | None) -> ChatChoice:
    message = ChatAnswer(role="assistant", content=text, refusal=None)
    return ChatChoice(index=index, message=message, logprobs=None, finish_reason=finish)


def _delta(index: int, text: str, finish: Finish | None) -> DeltaChoice:
    delta = Delta() if finish else Delta(content=text)
    return DeltaChoice(index=index, delta=delta, logprobs=None, finish_reason=finish)


def _opening(index: int) -> DeltaChoice:
    delta = Delta(role="assistant", content="")
    return DeltaChoice(index=index, delta=delta, logprobs=None, finish_reason=None)


_completion = partial(Completion, object="text_completion")
TEXT_FORM = Form("cmpl-", _completion, _completion, _text, _text)
CHAT_FORM = Form(
    "chatcmpl-",
    partial(ChatCompletion, object="chat.completion"),
    partial(ChatChunk, object="chat.completion.chunk"),
    _message,
    _delta,
    _opening,
)
