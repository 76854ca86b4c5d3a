"""Who asks, as far as that decides which version answers while one is on trial."""

from __future__ import annotations

import hashlib
import random
from contextvars import ContextVar

from ftray.store.routes import Trial

CALLER_HEADER = "x-ftray-caller"
"""Requests with the same value are answered by the same version for as long as a trial goes on."""
CALLER: ContextVar[str] = ContextVar("caller", default="")
"""The header's value in the request that is being answered; empty without one."""


def is_tried(trial: Trial) -> bool:
    """Whether the version on trial gets this request: by chance, or for good by who asks."""
    caller = CALLER.get()
    if not caller:
        return random.random() < trial.share
    digest = hashlib.sha256(f"{trial.id}/{trial.stop.version}/{caller}".encode()).digest()
    return int.from_bytes(digest[:8]) < trial.share * 2**64
