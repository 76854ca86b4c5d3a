"""What stands behind every protocol: one model that answers, in one of its versions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ftray.models.folder import ModelInfo

MODEL_HEADER, VERSION_HEADER = "x-ftray-model", "x-ftray-version"


@dataclass(frozen=True)
class Answers:
    """One output a text, in the shape of the Hugging Face pipeline of the task, and who gave
    them."""

    name: str
    version: int | None
    labels: tuple[str, ...]
    outputs: list[Any]

    @property
    def best(self) -> list[str]:
        """The likeliest label of each text."""
        return [(row[0] if isinstance(row, list) else row)["label"] for row in self.outputs]

    @property
    def headers(self) -> dict[str, str]:
        return named(self)


class Versioned(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int | None: ...


def named(model: Versioned) -> dict[str, str]:
    """The headers that say which model it was."""
    name = model.name.encode("ascii", "backslashreplace").decode()
    return {MODEL_HEADER: name, VERSION_HEADER: _digits(model.version)}


def version_number(model: Versioned) -> str:
    """As protocols say it that want one: a folder that was never registered has none."""
    return _digits(model.version) or "1"


def _digits(version: int | None) -> str:
    return "" if version is None else str(version)


class Unavailable(Exception):
    """A model that is served could not be loaded when it was asked for; the log says why."""


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

    async def answer(self, texts: Sequence[str], top_k: int | None) -> Answers:
        """All by the same version; with top_k that many labels a text, as far as there are.
        Raises Overloaded, Unavailable."""
        ...


class Backends(Protocol):
    """All models of a service."""

    @property
    def entries(self) -> Sequence[Backend]: ...

    def find(self, name: str, version: str | None = None) -> Backend | None:
        """The model of that name or address, and of that `version_number`."""
        ...

    async def metrics_page(self) -> bytes:
        """The counts of all replicas in Prometheus' text format."""
        ...
