"""Computes the pauses before a failed step is tried again."""

from __future__ import annotations

import time
from collections.abc import Hashable

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 5.0, 300.0


class Backoff:
    """Exponential backoff: each pause of a step is twice as long as the one before."""

    def __init__(self) -> None:
        self._until: dict[Hashable, tuple[float, float]] = {}
        """Failed step -> its last pause in seconds, and the time when the pause ends."""

    def again(self, key: Hashable) -> None:
        """Note that the step has failed once more."""
        pause, _ = self._until.get(key, (_FIRST_PAUSE_S / 2, 0.0))
        pause = min(2 * pause, _LONGEST_PAUSE_S)
        self._until[key] = pause, time.monotonic() + pause

    def left_s(self, key: Hashable) -> float:
        """Return the seconds until the step may be tried again; 0: now."""
        _, end = self._until.get(key, (0.0, 0.0))
        return max(0.0, end - time.monotonic())

    def forget(self, key: Hashable) -> None:
        self._until.pop(key, None)

    def forget_but(self, *keys: Hashable) -> None:
        self._until = {key: when for key, when in self._until.items() if key in keys}
