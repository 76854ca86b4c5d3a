"""Bounds how many models a process has loaded at once.

Counted are models that are being loaded, those that answer, and those that were let go and have
requests to end: a slot is free again when nothing refers to its model any more.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable

from ftray.serve.models.loader import Live
from ftray.serve.runners.batcher import Overloaded

_LOOK_S = 0.01
_RETRY_AFTER_S = 5

Evict = Callable[[str], str | None]
"""Lets go of the models of another owner than the named one. Returns that owner; None where there
is none."""


class Slots:
    """Used by all threads that load models."""

    def __init__(self, count: int, wait_s: float, evict: Evict) -> None:
        self._count, self._wait_s, self._evict = count, wait_s, evict
        self._owners: dict[object, str] = {}
        """Slot -> whose model is in it. Each change is one step, as models may go at any time."""
        self._leaving: set[object] = set()
        """Slots of models that were let go."""
        self._waiting = 0
        self._lock = threading.Lock()

    def hold(self, owner: str, load: Callable[[], Live]) -> Live:
        """Return what `load` returns, once there is a slot for it. A new version of the only model
        that is loaded needs no free slot.

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
        """Take a slot; None where none is free yet. One model is let go for each caller that
        waits."""
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
