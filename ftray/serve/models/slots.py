"""Bounds the number of models that a process has loaded at once.

Models that are being loaded, models that answer, and evicted models with unfinished requests all
count. A slot is free again when nothing refers to its model any more.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable

from ftray.serve.interface import Overloaded
from ftray.serve.models.live import Live

_LOOK_S = 0.01
_RETRY_AFTER_S = 5

Evict = Callable[[str], str | None]
"""Evicts the models of one owner other than the named one. Returns the evicted owner; None where
there is none."""


class Slots:
    """Slots for loaded models, shared by all threads that load models. An owner is the address of a
    served model; its versions take a slot each."""

    def __init__(self, count: int, wait_s: float, evict: Evict) -> None:
        self._count, self._wait_s, self._evict = count, wait_s, evict
        self._owners: dict[object, str] = {}
        """Slot -> owner of the model in it. Each change is a single dict operation, as a model's
        finalizer may remove a slot at any time."""
        self._leaving: set[object] = set()
        """Slots of evicted models that are still in memory."""
        self._waiting = 0
        self._lock = threading.Lock()

    def hold(self, owner: str, load: Callable[[], Live]) -> Live:
        """Wait for a slot, then load a model with `load` and return it. A new version needs no free
        slot where all loaded models are versions of the same owner.

        Raises Overloaded where no slot gets free in time, and as `load`.
        """
        slot = self._take(owner)
        try:
            live = load()
        except BaseException:
            del self._owners[slot]
            raise
        weakref.finalize(live.loaded, self._owners.pop, slot, None).atexit = False
        return live

    def _take(self, owner: str) -> object:
        end = time.monotonic() + self._wait_s
        with self._lock:
            self._waiting += 1
        try:
            while (slot := self._free(owner)) is None:
                if time.monotonic() >= end:
                    message = f"no more than {self._count:,} models may be loaded at once"
                    raise Overloaded(message, _RETRY_AFTER_S)
                time.sleep(_LOOK_S)
            return slot
        finally:
            with self._lock:
                self._waiting -= 1

    def _free(self, owner: str) -> object | None:
        """Take a slot; None where none is free yet. Where all are taken, evict a model first,
        unless as many evicted models are leaving as callers wait."""
        with self._lock:
            self._leaving &= self._owners.copy().keys()
            if self._is_full(owner) and len(self._leaving) < self._waiting:
                evicted = self._evict(owner)
                self._leaving |= {s for s, o in self._owners.copy().items() if o == evicted}
            if self._is_full(owner):
                return None
            slot = object()
            self._owners[slot] = owner
            return slot

    def _is_full(self, owner: str) -> bool:
        owners = self._owners.copy().values()
        return len(owners) >= self._count and set(owners) != {owner}
