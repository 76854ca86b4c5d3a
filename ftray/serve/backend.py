"""What stands behind every protocol: one model that answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ftray.models.folder import ModelInfo


class Backend(Protocol):
    name: str
    version: int | None
    info: ModelInfo

    async def answer(self, texts: Sequence[str], top_k: int | None) -> list[Any]:
        """One answer a text, in the shape of the Hugging Face pipeline of the model's task."""
        ...

    async def metrics_page(self) -> bytes:
        """The counts of all replicas in Prometheus' text format."""
        ...
