"""Detects a hanging run, and reports the stack of every rank.

A rank that waits for ever (a lost peer, a dead file system, a deadlock) keeps all other ranks
waiting in their next collective operation. Python cannot raise an exception in a thread that waits
inside a library. So each rank runs a watchdog thread, which reports the stack of the training
thread when this thread hangs.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from ftray.errors import Problem, RunFailed
from ftray.train.distributed.events import Event, Listener

_GRACE_S = 5.0  # after the first alarm, the time for the alarms of the other ranks to arrive
_SAVE_LIMIT = 10
"""Time limit for writing a checkpoint, as a multiple of the time limit for a hang. A storage that
does not answer raises an error sooner; this limit ends a write that waits in the kernel for
ever."""

HANGS, MOVES, SAVES = "hang", "moves", "saves"
"""Kinds of events: a rank hangs; the rank moves again; the rank is writing a checkpoint."""


class Alarms:
    """The driver's end: collects the alarms of a worker group. `check` raises an error from them,
    unless a rank was writing a checkpoint within the last `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._workers = 0
        self._stacks: dict[int, str] = {}
        self._first = 0.0
        self._saved = float("-inf")

    def filter(self, listener: Listener) -> Listener:
        """Return a listener that passes each event to this object, and all events but signs of life
        (MOVES, SAVES) to `listener`."""

        def tell(event: Event) -> None:
            self.listen(event)
            if event["kind"] not in (MOVES, SAVES):
                listener(event)

        return tell

    def listen(self, event: Event) -> None:
        """Process an event of the run; events that are neither alarms nor the start have no
        effect."""
        if event["kind"] == "start":
            self._workers, self._stacks = event["workers"], {}
        elif event["kind"] == HANGS:
            self._first = self._first if self._stacks else time.monotonic()
            self._stacks[event["rank"]] = f"({event['where']})\n{event['stack']}"
        elif event["kind"] == MOVES:
            self._stacks.pop(event["rank"], None)
        elif event["kind"] == SAVES:
            self._saved = time.monotonic()

    def check(self) -> None:
        """Raise RunFailed when the run hangs, once all ranks have sent their stacks or the grace
        period for missing ones is over."""
        if not self._stacks or time.monotonic() - self._saved < self._seconds:
            return  # no rank hangs, or the ranks only wait for the rank that saves
        missing = [rank for rank in range(self._workers) if rank not in self._stacks]
        if missing and time.monotonic() - self._first < _GRACE_S:
            return
        silent = dict.fromkeys(missing, "does not answer at all: stopped, or its node is gone")
        said = {**self._stacks, **silent}
        ranks = "\n".join(f"rank {rank} {said[rank]}" for rank in sorted(said))
        problem = (
            "no forward pass on any rank for that long, and no checkpoint written; the run was "
            f"ended. The ranks stand at\n{ranks}\n"
        )
        fix = (
            "The same command goes on from the last checkpoint; raise scale.hang_minutes where a "
            "pass takes that long."
        )
        raise RunFailed(Problem("scale.hang_minutes", "", problem, fix))


class Watchdog:
    """Watches the thread that enters the context, and calls `tell(kind, stack)` from a second
    thread.

    The kind is HANGS, with the stack of the watched thread, when this thread has not called `alive`
    for `seconds`; MOVES when the watched thread calls `alive` again; and SAVES while a checkpoint
    is written.
    """

    def __init__(self, seconds: float, tell: Callable[[str, str], None]) -> None:
        self._seconds = seconds
        self._tell = tell
        self._watched = 0
        self._seen = 0.0
        self._saving: float | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="ftray-watchdog", daemon=True)

    def alive(self) -> None:
        self._seen = time.monotonic()

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Mark the block as writing a checkpoint, which counts as a sign of life for ten times
        `seconds`. Any thread may enter the block."""
        self._saving = time.monotonic()
        try:
            yield
        finally:
            self._saving = None
            self.alive()

    def __enter__(self) -> Self:
        self._watched = threading.get_ident()
        self.alive()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        hangs = False
        while not self._over.wait(min(1.0, self._seconds / 4)):
            if self._saves():
                self.alive()
                self._tell(SAVES, "")
            silent = time.monotonic() - self._seen > self._seconds
            if silent != hangs:
                self._tell(*((HANGS, stack_of(self._watched)) if silent else (MOVES, "")))
            hangs = silent

    def _saves(self) -> bool:
        since = self._saving
        return since is not None and time.monotonic() - since < _SAVE_LIMIT * self._seconds


def stack_of(thread: int) -> str:
    """Return the stack of a thread of this process, from its first frame in `ftray.train` on."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001
    if frame is None:
        return "  its training thread has ended"
    frames = traceback.extract_stack(frame)
    package = Path(__file__).parents[1]
    ours = [Path(f.filename).is_relative_to(package) for f in frames]
    return "".join(traceback.format_list(frames[ours.index(True) if any(ours) else 0 :])).rstrip()
