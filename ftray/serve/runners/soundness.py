"""Records whether a loaded model still reproduces its golden answers."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from dataclasses import dataclass, field

from ftray.serve.ops.log import logger

_log = logger(__name__)


@dataclass(eq=False)
class Soundness:
    """Results of the checks of one model."""

    checked: float = field(default_factory=time.monotonic)
    """Time when the last check began, or when the model was loaded."""
    suspect: bool = False
    """Whether a call of the model has failed since the last check."""
    fault: str = ""
    """Why the model did not reproduce the golden answer; empty where it did."""

    async def check(self, label: str, replay: Awaitable[None]) -> None:
        """Await the replay of a golden answer, and note how it ends."""
        self.checked, self.suspect = time.monotonic(), False
        try:
            await replay
        except Exception as error:  # noqa: BLE001 - whatever a broken model or device raises
            self.fault = str(error) or repr(error)
            _log.exception("%s no longer gives its golden answer", label)
        else:
            self.fault = ""
