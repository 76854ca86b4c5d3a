"""Notices models that hang or answer wrongly, so that Ray Serve replaces their replica."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from ftray.serve.interface import label
from ftray.serve.models.live import Live
from ftray.serve.ops.log import logger

_log = logger(__name__)

_PATIENCE_S = 5.0
"""Seconds that a check waits for a golden answer. A model that takes longer counts as busy; the
stopwatch of a model's thread finds a thread that hangs."""


class Unhealthy(RuntimeError):
    """Ray Serve should replace this replica."""


class Health:
    """Health of the models that a replica holds. held: returns these models."""

    def __init__(self, held: Callable[[], Sequence[Live]]) -> None:
        self._held = held
        self._checking: asyncio.Task[None] | None = None

    @property
    def fault(self) -> str:
        """Name of a model that does not answer, and why; empty where all models answer."""
        faulty = ((live, live.fault) for live in self._held())
        told = (f"{label(live)} does not answer: {fault}" for live, fault in faulty if fault)
        return next(told, "")

    async def check(self) -> None:
        """Ask one model for a golden answer, in the thread where that model computes. Models that
        have a fault or failed lately come first; among equals, the model that was checked longest
        ago. Raises Unhealthy where a model has a fault."""
        if self._checking is None or self._checking.done():
            due = min(self._held(), key=_turn, default=None)
            loop = asyncio.get_running_loop()
            self._checking = None if due is None else loop.create_task(due.check())
        if self._checking is not None:
            await asyncio.wait([self._checking], timeout=_PATIENCE_S)
        if fault := self.fault:
            _log.error("this replica is to be replaced: %s", fault)
            raise Unhealthy(fault)


def _turn(live: Live) -> tuple[bool, float]:
    soundness = live.soundness
    return not (soundness.fault or soundness.suspect), soundness.checked
