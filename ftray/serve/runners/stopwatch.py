"""Detects a model's thread that hangs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any


@dataclass
class Stopwatch:
    """Measures how long a thread has been in a `with` block. Any thread may read `fault`."""

    limit_s: float
    """Seconds after which a call counts as hung: longer than any call takes that still returns."""
    _began: float | None = None

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_: Any) -> None:
        self._began = None

    @property
    def fault(self) -> str:
        """Message that the thread hangs; empty while it does not."""
        began = self._began
        seconds = 0.0 if began is None else time.monotonic() - began
        if seconds <= self.limit_s:
            return ""
        return f"a call of the model has not returned for {seconds:.0f} s"
