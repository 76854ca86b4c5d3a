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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from ftray.errors import Problem, RunFailed
from ftray.train.distributed.events import Event, Listener

_GRACE_S = 5.0  # from the first alarm on, for those of the other ranks
_SAVE_LIMIT = 10
"""How many times as long as a hang a checkpoint may take to be written. A store that does not
answer ends the run sooner, by an error; this ends one that waits in the kernel for ever."""

HANGS, MOVES, SAVES = "hang", "moves", "saves"
"""Kinds of events: a rank no longer moves; it moves again; it is writing a checkpoint."""


class Alarms:
    """The driver's end: collects the alarms of a group of workers, and makes an error of them when
    no rank has written at a checkpoint for `seconds` either."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._workers = 0
        self._stacks: dict[int, str] = {}
        self._first = 0.0
        self._saved = float("-inf")

    def filter(self, listener: Listener) -> Listener:
        """A listener that takes what concerns this object, and passes on all but signs of life."""

        def tell(event: Event) -> None:
            self.listen(event)
            if event["kind"] not in (MOVES, SAVES):
                listener(event)

        return tell

    def listen(self, event: Event) -> None:
        """Take any event of the run; those that are no concern are passed over."""
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
        """Raise RunFailed when a run hangs, and all ranks that can have said where they stand."""
        if not self._stacks or time.monotonic() - self._saved < self._seconds:
            return  # the others wait for the rank that saves
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
    """Calls `tell` from a thread of its own: with HANGS and the stack of the thread that entered
    when that thread has not said `alive` for `seconds`, with MOVES when it does again, and with
    SAVES while a checkpoint is written."""

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
        """In any thread: inside the block a checkpoint is written, which is a sign of life for ten
        times `seconds`."""
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
    """Where a thread of this process stands: its frames from the first one of `ftray.train` on."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001
    if frame is None:
        return "  its training thread has ended"
    frames = traceback.extract_stack(frame)
    package = Path(__file__).parents[1]
    ours = [Path(f.filename).is_relative_to(package) for f in frames]
    return "".join(traceback.format_list(frames[ours.index(True) if any(ours) else 0 :])).rstrip()
