"""Whether a model that proved itself when it was loaded still gives its golden answers."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from dataclasses import dataclass, field

from ftray.serve.ops.log import logger

_log = logger(__name__)


@dataclass(eq=False)
class Soundness:
    """What the checks of one model found."""

    checked: float = field(default_factory=time.monotonic)
    """Time when a golden answer was last asked for."""
    suspect: bool = False
    """A call of the model has failed since."""
    fault: str = ""
    """Why the golden answer did not come out; empty where it did."""

    async def check(self, label: str, replay: Awaitable[None]) -> None:
        """Note how the replay of a golden answer ends."""
        self.checked, self.suspect = time.monotonic(), False
        try:
            await replay
        except Exception as error:  # noqa: BLE001 - whatever a broken model or device raises
            self.fault = str(error) or repr(error)
            _log.exception("%s no longer gives its golden answer", label)
        else:
            self.fault = ""
