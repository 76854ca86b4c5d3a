"""Follows a run from another process: the records of its metrics.jsonl as they come."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from ftray.store.runs.folder import RunFolder

_LOOK_EVERY_S = {True: 1.0, False: 5.0}
"""Whether the root is a disk -> seconds between two looks."""


def follow(run: RunFolder) -> Iterator[dict[str, Any]]:
    """Yield the records of the run, those there are and those to come, until it has ended.

    Ends, too, where the run's owner gives no more sign of life. Raises StorageError.
    """
    told = 0
    while True:
        over = run.state != "running"  # asked before the records: a run writes its end last
        records = run.metrics()
        yield from records[told:]
        told = len(records)
        if over:
            return
        time.sleep(_LOOK_EVERY_S[run.location.is_local])
