"""The interface between the protocols and the models: answers, exceptions, and `Backend`, which is
one model that answers in one of its versions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ftray.models.artifact.manifest import ModelInfo
from ftray.models.generation.sampling_params import Prompt, Sampling
from ftray.tasks.base import Question

GENERATED = "generated_text"
"""Key in an output of a model that generates: its value is the text without the prompt."""
_PLACES_SHOWN = 5
MODEL_HEADER, VERSION_HEADER = "x-ftray-model", "x-ftray-version"


@dataclass(frozen=True)
class Answers:
    """One output for each question, in the shape of the Hugging Face pipeline of the task, with the
    name and the version of the model that gave them. labels: the model's labels, if it has any;
    best: summary of each output, by which versions of a model are compared; tokens: what the model
    read of texts."""

    name: str
    version: int | None
    labels: tuple[str, ...]
    outputs: list[Any]
    best: list[str]
    tokens: int = 0


@dataclass(frozen=True)
class Piece:
    """The text by which an answer grew. tokens: number of tokens of the whole answer so far, its
    end token among them; finish: why the answer ends with this piece. `length`: the answer has as
    many tokens as the request wants or as fit into the context."""

    text: str
    tokens: int
    finish: Literal["stop", "length"] | None = None


@dataclass(frozen=True)
class Generation:
    """An answer in progress, with the name and the version of the model that gives it. A caller
    that closes `pieces` early ends the answer."""

    name: str
    version: int | None
    prompt_tokens: int
    pieces: AsyncGenerator[Piece, None]


class BadPrompt(Exception):
    """The model cannot answer this request. field: the wrong field, one of `prompt`, `prompt.N`
    (one of several prompts, counted from 0), `top_k`; code: the reason, as an OpenAI error code."""

    def __init__(self, field: str, message: str, code: str) -> None:
        super().__init__(message)
        self.field = field
        self.code = code


def require_contents(have: Sequence[bool]) -> None:
    """Raise BadPrompt where a text of the request has no content. have: for each text, whether it
    has content."""
    empty = [place for place, has in enumerate(have) if not has]
    if empty:
        message = "there is nothing in it that the model reads"
        if len(have) > 1:
            shown = ", ".join(str(place + 1) for place in empty[:_PLACES_SHOWN])
            more = ", ..." if len(empty) > _PLACES_SHOWN else ""
            message = f"of {len(have):,} texts number {shown}{more}: {message}"
        field = f"prompt.{empty[0]}" if len(have) > 1 else "prompt"
        raise BadPrompt(field, message, "empty_prompt")


class Versioned(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int | None: ...


def named(model: Versioned) -> dict[str, str]:
    """Return the response headers with the model's name and version."""
    name = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in model.name)
    name = name.encode("ascii", "backslashreplace").decode()
    return {MODEL_HEADER: name, VERSION_HEADER: _digits(model.version)}


def version_number(model: Versioned) -> str:
    """Return the version number for protocols that require one: "1" for a model folder that was
    never registered."""
    return _digits(model.version) or "1"


def _digits(version: int | None) -> str:
    return "" if version is None else str(version)


def label(model: Versioned) -> str:
    """Return the model's reference, NAME or NAME:VERSION."""
    return model.name if model.version is None else f"{model.name}:{model.version}"


class NotNow(Exception):
    """The service cannot answer a request now. A client may retry after `retry_after_s` seconds;
    code: the reason, as an OpenAI error code."""

    code = ""

    def __init__(self, message: str, retry_after_s: int = 5) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    @property
    def told(self) -> str:
        """The message for the client."""
        return str(self)


class Overloaded(NotNow):
    """More requests came than can be answered in time."""

    code = "overloaded"

    @property
    def told(self) -> str:
        return f"too much to do: {self}; try again in {self.retry_after_s} s"


class TooLate(Overloaded):
    """The time limit of a request passed without an answer."""


class Unavailable(NotNow):
    """A served model could not be loaded when a request came for it, or has stopped answering; the
    log says why."""

    code = "unavailable"

    @property
    def told(self) -> str:
        return f"{self}; the log of the service says why"


class Answering(Versioned, Protocol):
    @property
    def fault(self) -> str: ...


def require_sound(model: Answering) -> None:
    """Raise Unavailable where the model hangs or no longer reproduces its golden answers."""
    if model.fault:
        raise Unavailable(f"{label(model)} does not answer just now")


class Backend(Protocol):
    """One served model."""

    @property
    def name(self) -> str: ...

    @property
    def address(self) -> str:
        """The model's name, followed by the version where several versions of one name may be
        served."""
        ...

    @property
    def version(self) -> int | None:
        """The current version. While another version is on trial, either may answer a request."""
        ...

    @property
    def info(self) -> ModelInfo:
        """Info of the current version, from its manifest."""
        ...

    @property
    def fault(self) -> str:
        """Why the model does not answer now; empty where it does."""
        ...

    async def answer(self, questions: Sequence[Question], top_k: int | None) -> Answers:
        """Answer all questions with the same version. top_k: number of answers for each, or all
        there are. Raises BadPrompt, Overloaded, Unavailable."""
        ...

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        """Start the answer of a model that generates. Raises BadPrompt, Overloaded, Unavailable.
        The pieces raise these too, but Overloaded only in place of the first piece."""
        ...


class Backends(Protocol):
    """All models of a service."""

    @property
    def entries(self) -> Sequence[Backend]: ...

    @property
    def fault(self) -> str:
        """Why the replica should get no requests; empty where it should."""
        ...

    def find(self, name: str, version: str | None = None) -> Backend | None:
        """Find the model with this name or address. version: its `version_number`; None: any."""
        ...

    async def metrics_page(self) -> bytes:
        """Return the counts of all replicas in Prometheus' text format."""
        ...
