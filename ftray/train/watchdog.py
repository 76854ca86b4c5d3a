"""Tells where each rank stands when a run no longer moves.

A rank that waits for ever (a lost peer, a dead file system, a deadlock) keeps all others waiting in
their next collective operation. Nothing can be raised in a thread that waits inside of a library,
so a second thread watches in every rank, and says what the first one is doing.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ftray.errors import RunFailed

_GRACE_S = 5.0  # from the first alarm on, for those of the other ranks


class Alarms:
    """The driver's end: collects the alarms of a group of `workers` and makes an error of them."""

    def __init__(self) -> None:
        self._workers = 0
        self._stacks: dict[int, str] = {}
        self._first = 0.0

    def listen(self, event: Mapping[str, Any]) -> None:
        """Take any event of the run; those that are no concern are passed over."""
        if event["kind"] == "start":
            self._workers, self._stacks = event["workers"], {}
        elif event["kind"] == "hang":
            self._first = self._first if self._stacks else time.monotonic()
            self._stacks[event["rank"]] = f"({event['where']})\n{event['stack']}"

    def check(self) -> None:
        """Raise RunFailed when a run hangs, and all ranks that can have said where they stand."""
        if not self._stacks:
            return
        missing = [rank for rank in range(self._workers) if rank not in self._stacks]
        if missing and time.monotonic() - self._first < _GRACE_S:
            return
        silent = dict.fromkeys(missing, "does not answer at all: stopped, or its node is gone")
        said = {**self._stacks, **silent}
        ranks = "\n".join(f"rank {rank} {said[rank]}" for rank in sorted(said))
        raise RunFailed.of(
            "scale.hang_minutes",
            None,
            f"no forward pass on any rank for that long; the run was ended. The ranks stand at\n"
            f"{ranks}\n",
            "the same command goes on from the last checkpoint; raise scale.hang_minutes where a "
            "pass takes that long",
        )


class Watchdog:
    """Calls `alarm` once, with the stack of the thread that entered, when that thread has not said
    `alive` for `seconds`."""

    def __init__(self, seconds: float, alarm: Callable[[str], None]) -> None:
        self._seconds = seconds
        self._alarm = alarm
        self._watched = 0
        self._seen = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="ftray-watchdog", daemon=True)

    def alive(self) -> None:
        self._seen = time.monotonic()

    def __enter__(self) -> Self:
        self._watched = threading.get_ident()
        self.alive()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, self._seconds / 4)):
            if time.monotonic() - self._seen > self._seconds:
                self._alarm(stack_of(self._watched))
                return


def stack_of(thread: int) -> str:
    """Where a thread of this process stands: its frames from the first one of this package on."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001
    if frame is None:
        return "  its training thread has ended"
    frames = traceback.extract_stack(frame)
    ours = [Path(f.filename).parent == Path(__file__).parent for f in frames]
    return "".join(traceback.format_list(frames[ours.index(True) if any(ours) else 0 :])).rstrip()
