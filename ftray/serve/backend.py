"""What stands behind every protocol: one model that answers, in one of its versions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ftray.models.folder import ModelInfo

VERSION_HEADER = "x-ftray-version"


@dataclass(frozen=True)
class Answers:
    """One output a text, in the shape of the Hugging Face pipeline of the task, and who gave
    them."""

    version: int | None
    labels: tuple[str, ...]
    outputs: list[Any]

    @property
    def best(self) -> list[str]:
        """The likeliest label of each text."""
        return [(row[0] if isinstance(row, list) else row)["label"] for row in self.outputs]

    @property
    def headers(self) -> dict[str, str]:
        return version_header(self.version)


def version_header(version: int | None) -> dict[str, str]:
    return {VERSION_HEADER: "" if version is None else str(version)}


class Backend(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int | None:
        """The one that answers now, unless another one is on trial."""
        ...

    @property
    def info(self) -> ModelInfo:
        """Of that version."""
        ...

    async def answer(self, texts: Sequence[str], top_k: int | None) -> Answers:
        """All by the same version; with top_k that many labels a text, as far as there are."""
        ...

    async def metrics_page(self) -> bytes:
        """The counts of all replicas in Prometheus' text format."""
        ...
