"""The request bodies of OpenAI's protocol.

A request may have an unsupported option with a neutral value, which asks for nothing, so that
clients that always send the option are served.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    TypeAdapter,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from ftray.models.generation.sampling_params import Message, Prompt, Sampling
from ftray.serve.schemas import MAX_ROWS, MAX_TEXT, Input, as_int

MAX_ANSWERS = 128
"""Most answers to one request: `n` to each of its prompts."""
MAX_MESSAGES = 512
MAX_PARTS = 128
"""Most parts of one message."""
_MAX_STOPS = 4
_MAX_INT = 2**31 - 1
_SEEDS = 2**63


@dataclass(frozen=True)
class Only:
    """Marks an option that is not supported: accepts null and the `neutral` values alone, which ask
    for nothing."""

    neutral: Sequence[Any] = ()

    def __get_pydantic_core_schema__(self, _: Any, __: Any) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, _: CoreSchema, __: Any) -> dict[str, Any]:
        return {"enum": [None, *self.neutral]}

    def _check(self, value: Any) -> None:
        # Compare the types too: in Python, True == 1.
        if not any(type(value) is type(one) and value == one for one in self.neutral):
            raise PydanticCustomError("unsupported", "not supported here; leave it out")


def _nullable(schema: dict[str, Any]) -> None:
    """Declare in the schema of a body that its optional fields may be null."""
    for name, field in schema["properties"].items():
        if (default := field.pop("default", None)) is not None:
            told = {"anyOf": [field, {"type": "null"}], "default": default}
            schema["properties"][name] = told


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra=_nullable)

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, body: Any) -> Any:
        """Turn whole floats into ints, and drop optional fields that are null. JSON makes no
        difference between 2 and 2.0, and OpenAI none between a null field and a missing one."""
        if not isinstance(body, Mapping):
            return body
        fields = cls.model_fields
        optional = {name for name, field in fields.items() if not field.is_required()}
        told = {name: as_int(value) for name, value in body.items()}
        return {k: v for k, v in told.items() if v is not None or k not in optional}


def _as_several(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _as_parts(content: Any) -> Any:
    return content if isinstance(content, list) else [{"type": "text", "text": content}]


def _as_prompts(value: Any) -> Any:
    """Wrap a single prompt in a list. A list of token ids is a single prompt."""
    are_tokens = isinstance(value, list) and value and not isinstance(value[0], str | list)
    return [value] if are_tokens else _as_several(value)


def as_ints(numbers: list[Any]) -> list[Any]:
    return [as_int(number) for number in numbers]


def _or_several(one: Any, each: Any, **limits: int) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [one, {"type": "array", "items": each, **limits}]})


_Flag = Annotated[bool, Field(strict=True)]
_Number = Annotated[float, Field(strict=True)]
_Penalty = Annotated[_Number, Field(ge=-2, le=2)]
_Count = Annotated[int, Field(ge=1, le=_MAX_INT, strict=True)]
_Stop = Annotated[Input, StringConstraints(min_length=1)]
_Token = Annotated[int, Field(ge=0, le=_MAX_INT, strict=True)]
_Tokens = Annotated[list[_Token], Field(min_length=1, max_length=MAX_TEXT)]
_Prompt = str | tuple[int, ...]

_text: TypeAdapter[str] = TypeAdapter(Input)
_tokens: TypeAdapter[list[int]] = TypeAdapter(_Tokens)
_TEXT_SCHEMA, _STOP_SCHEMA = _text.json_schema(), TypeAdapter(_Stop).json_schema()
_SOME_TEXT_SCHEMA = {**_TEXT_SCHEMA, "minLength": 1}
_PROMPT_SCHEMA = {"anyOf": [_TEXT_SCHEMA, _tokens.json_schema()]}


def _prompt(value: Any) -> _Prompt:
    if isinstance(value, list):
        return tuple(_tokens.validate_python(as_ints(value)))
    return _text.validate_python(value)


class StreamOptions(_Body):
    include_usage: _Flag = False
    include_obfuscation: _Flag = Field(False, description="Ignored.")


class GenerationRequest(_Body):
    """The fields that completions and chats share."""

    model: Input
    temperature: Annotated[_Number, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[_Number, Field(gt=0, le=1)] = 1.0
    n: Annotated[int, Field(ge=1, le=16, strict=True)] = 1
    seed: Annotated[int, Field(strict=True)] | None = None
    stop: Annotated[
        list[_Stop],
        Field(max_length=_MAX_STOPS),
        BeforeValidator(_as_several),
        _or_several(_STOP_SCHEMA, _STOP_SCHEMA, maxItems=_MAX_STOPS),
    ] = []
    presence_penalty: _Penalty = 0.0
    frequency_penalty: _Penalty = 0.0
    stream: _Flag = False
    stream_options: StreamOptions = StreamOptions()
    user: Input | None = Field(None, description="Ignored.")
    logit_bias: Annotated[Any, Only([{}])] = None

    @property
    @abstractmethod
    def prompts(self) -> Sequence[Prompt]: ...

    @property
    @abstractmethod
    def most_tokens(self) -> int | None:
        """Most tokens of an answer."""

    def sampling(self, number: int) -> Sampling:
        """Return the sampling options of one answer to a prompt. number: of the answer among the
        `n` answers; each answer has a seed of its own."""
        return Sampling(
            max_tokens=self.most_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=None if self.seed is None else (self.seed + number) % _SEEDS,
            stop=tuple(self.stop),
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
        )


class CompletionRequest(GenerationRequest):
    prompt: Annotated[
        list[Annotated[_Prompt, PlainValidator(_prompt)]],
        Field(min_length=1, max_length=MAX_ANSWERS),
        BeforeValidator(_as_prompts),
        _or_several(_PROMPT_SCHEMA, _PROMPT_SCHEMA, minItems=1, maxItems=MAX_ANSWERS),
    ]
    max_tokens: _Count = 16
    best_of: Annotated[Any, Only([1])] = None
    echo: Annotated[Any, Only([False])] = None
    logprobs: Annotated[Any, Only([False])] = None
    suffix: Annotated[Any, Only([""])] = None

    @field_validator("prompt")
    @classmethod
    def _few(cls, prompts: list[_Prompt], known: ValidationInfo) -> list[_Prompt]:
        asked = len(prompts) * known.data.get("n", 1)
        if asked > MAX_ANSWERS:
            raise PydanticCustomError(
                "too_many_answers",
                "n to each prompt are {asked} answers; {limit} a request is the limit",
                {"asked": asked, "limit": MAX_ANSWERS},
            )
        return prompts

    @property
    def prompts(self) -> Sequence[Prompt]:
        return self.prompt

    @property
    def most_tokens(self) -> int:
        return self.max_tokens


class EmbeddingRequest(_Body):
    """Token ids as input are not read: they are those of another model's tokenizer."""

    model: Input
    input: Annotated[
        list[Annotated[Input, StringConstraints(min_length=1)]],
        Field(min_length=1, max_length=MAX_ROWS),
        BeforeValidator(_as_several),
        _or_several(_SOME_TEXT_SCHEMA, _SOME_TEXT_SCHEMA, minItems=1, maxItems=MAX_ROWS),
    ]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: _Count | None = Field(
        None, description="The first numbers of each vector, scaled to length 1; null: all."
    )
    user: Input | None = Field(None, description="Ignored.")


class TextPart(_Body):
    type: Literal["text"]
    text: Input


class ChatMessage(_Body):
    """One turn; an answer may be sent back as it came."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        list[TextPart],
        Field(min_length=1, max_length=MAX_PARTS),
        BeforeValidator(_as_parts),
        _or_several(_TEXT_SCHEMA, TextPart.model_json_schema(), minItems=1, maxItems=MAX_PARTS),
    ]
    name: Input | None = Field(None, description="Ignored.")
    refusal: Annotated[Any, Only([""])] = None
    annotations: Annotated[Any, Only([[]])] = None
    audio: Annotated[Any, Only()] = None
    function_call: Annotated[Any, Only()] = None
    tool_calls: Annotated[Any, Only([[]])] = None

    @property
    def message(self) -> Message:
        # `developer` is OpenAI's new name for the role that chat templates know as `system`.
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": "".join(part.text for part in self.content)}


class ChatRequest(GenerationRequest):
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: _Count | None = Field(
        None, description="null: as many as the context has room for."
    )
    max_tokens: _Count | None = Field(
        None, description="What max_completion_tokens was called; it comes first."
    )
    metadata: Annotated[Any, Only([{}])] = None
    prompt_cache_key: Input | None = Field(None, description="Ignored.")
    safety_identifier: Input | None = Field(None, description="Ignored.")
    audio: Annotated[Any, Only()] = None
    function_call: Annotated[Any, Only(["none", "auto"])] = None
    functions: Annotated[Any, Only([[]])] = None
    logprobs: Annotated[Any, Only([False])] = None
    modalities: Annotated[Any, Only([["text"]])] = None
    moderation: Annotated[Any, Only()] = None
    parallel_tool_calls: Annotated[Any, Only([True, False])] = None
    prediction: Annotated[Any, Only()] = None
    prompt_cache_options: Annotated[Any, Only()] = None
    prompt_cache_retention: Annotated[Any, Only()] = None
    reasoning_effort: Annotated[Any, Only(["none"])] = None
    response_format: Annotated[Any, Only([{"type": "text"}])] = None
    service_tier: Annotated[Any, Only(["auto", "default"])] = None
    store: Annotated[Any, Only([False])] = None
    tool_choice: Annotated[Any, Only(["none", "auto"])] = None
    tools: Annotated[Any, Only([[]])] = None
    top_logprobs: Annotated[Any, Only([0])] = None
    verbosity: Annotated[Any, Only(["medium"])] = None
    web_search_options: Annotated[Any, Only()] = None

    @property
    def prompts(self) -> Sequence[Prompt]:
        return [tuple(message.message for message in self.messages)]

    @property
    def most_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens
