"""What stands behind every protocol: one model that answers, in one of its versions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ftray.models.artifact.manifest import ModelInfo
from ftray.models.generation.sampling_params import Prompt, Sampling

GENERATED = "generated_text"
"""What an output of a model that generates holds: the text without the prompt."""
_PLACES_SHOWN = 5
MODEL_HEADER, VERSION_HEADER = "x-ftray-model", "x-ftray-version"


@dataclass(frozen=True)
class Answers:
    """One output a text, in the shape of the Hugging Face pipeline of the task, and who gave
    them. labels: of the model, none where it generates."""

    name: str
    version: int | None
    labels: tuple[str, ...]
    outputs: list[Any]

    @property
    def best(self) -> list[str]:
        """The likeliest label of each text, or the text that was generated."""
        rows = (row[0] if isinstance(row, list) else row for row in self.outputs)
        return [row["label"] if "label" in row else row[GENERATED] for row in rows]

    @property
    def headers(self) -> dict[str, str]:
        return named(self)


@dataclass(frozen=True)
class Piece:
    """What an answer grew by. tokens: of the whole answer so far, its end token among them;
    finish: why it ends with this piece, `length`: no more tokens were wanted or fit."""

    text: str
    tokens: int
    finish: Literal["stop", "length"] | None = None


@dataclass(frozen=True)
class Generation:
    """An answer on its way, and who gives it. Who closes `pieces` early ends it."""

    name: str
    version: int | None
    prompt_tokens: int
    pieces: AsyncGenerator[Piece, None]

    @property
    def headers(self) -> dict[str, str]:
        return named(self)


class BadPrompt(Exception):
    """What was asked cannot be answered. field: what is wrong, one of `prompt`, `prompt.N` (one of
    several, counted from 0), `top_k`; code: why, in OpenAI's words."""

    def __init__(self, field: str, message: str, code: str) -> None:
        super().__init__(message)
        self.field = field
        self.code = code


def require_contents(have: Sequence[bool]) -> None:
    """Raise BadPrompt where one of the texts of a request has nothing in it."""
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
    """The headers that say which model it was."""
    name = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in model.name)
    name = name.encode("ascii", "backslashreplace").decode()
    return {MODEL_HEADER: name, VERSION_HEADER: _digits(model.version)}


def version_number(model: Versioned) -> str:
    """As protocols say it that want one: a folder that was never registered has none."""
    return _digits(model.version) or "1"


def _digits(version: int | None) -> str:
    return "" if version is None else str(version)


def label(model: Versioned) -> str:
    """The model as a reference names it."""
    return model.name if model.version is None else f"{model.name}:{model.version}"


class Unavailable(Exception):
    """A model that is served could not be loaded when it was asked for, or has stopped to answer;
    the log says why. Another try makes sense after `retry_after_s`."""

    code = "unavailable"

    def __init__(self, message: str, retry_after_s: int = 5) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    @property
    def told(self) -> str:
        """What a client is told."""
        return f"{self}; the log of the service says why"


class Answering(Versioned, Protocol):
    @property
    def fault(self) -> str: ...


def require_sound(model: Answering) -> None:
    """Raise Unavailable where a model hangs, or does not give its golden answers any more."""
    if model.fault:
        raise Unavailable(f"{label(model)} does not answer just now")


class Backend(Protocol):
    """One model."""

    @property
    def name(self) -> str: ...

    @property
    def address(self) -> str:
        """Its name, and which version it is where several of one name may be served."""
        ...

    @property
    def version(self) -> int | None:
        """The one that answers now, unless another one is on trial."""
        ...

    @property
    def info(self) -> ModelInfo:
        """Of that version."""
        ...

    @property
    def fault(self) -> str:
        """Why it does not answer just now; empty where it does."""
        ...

    async def answer(self, texts: Sequence[str], top_k: int | None) -> Answers:
        """All by the same version; with top_k that many labels a text, as far as there are.
        Raises BadPrompt, Overloaded, Unavailable."""
        ...

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        """The answer of a model that generates. Raises BadPrompt, Overloaded, Unavailable; so do
        the pieces, Overloaded before the first one only."""
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
        """The model of that name or address, and of that `version_number`."""
        ...

    async def metrics_page(self) -> bytes:
        """The counts of all replicas in Prometheus' text format."""
        ...
