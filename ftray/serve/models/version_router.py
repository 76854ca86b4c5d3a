"""Chooses the version that answers a request while one is on trial."""

from __future__ import annotations

import hashlib
import random
from contextvars import ContextVar

from ftray.store.deployments.routes import Trial

CALLER_HEADER = "x-ftray-caller"
"""Header that binds a caller to a version: the same version answers all requests with the same
value while a trial goes on."""
CALLER: ContextVar[str] = ContextVar("caller", default="")
"""Value of `CALLER_HEADER` in the current request; empty without the header."""


def is_tried(trial: Trial) -> bool:
    """Decide whether the version on trial gets this request: at random, or by a hash of the
    caller's header, which keeps a caller at one version."""
    caller = CALLER.get()
    if not caller:
        return random.random() < trial.share
    digest = hashlib.sha256(f"{trial.id}/{trial.stop.version}/{caller}".encode()).digest()
    return int.from_bytes(digest[:8]) < trial.share * 2**64
