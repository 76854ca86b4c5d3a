"""What SIGINT and SIGTERM do to a command: acknowledged at once, and ended soon.

The main thread may be deep inside a library that lets no handler run. So a thread of its own, which
the signal itself wakes, acknowledges the signal, ends the process at the second one, and ends it
when SIGTERM's time is up.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from ftray.errors import EXIT_INTERRUPTED

TERM_S = 9.0
"""Seconds that a command has left after SIGTERM."""
_TOLD_S = 0.5
_SOON_S = 0.05
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PROMISE = "the same command goes on from what is done so far"


@dataclass(frozen=True)
class _Way:
    """How a part of a command ends: what stops it softly, and what happens then."""

    stop: Callable[[], None]
    promise: str


class _State:
    """Of this process: signals are the process's too."""

    ways: list[_Way]
    count: int
    deadline: float | None
    watched: bool
    """Whether a thread acknowledges signals."""
    sockets: tuple[socket.socket, socket.socket] | None
    """Kept open as long as signals may come."""
    told: threading.Event
    """Set when it has done so."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self.ways, self.count, self.deadline = [], 0, None
        self.sockets = None
        self.watched, self.told = False, threading.Event()


_state = _State()


@contextmanager
def acknowledged(say: Callable[[str], None]) -> Iterator[None]:
    """Inside the block the first SIGINT or SIGTERM is acknowledged through `say`, called in another
    thread, and then ends the block: by the way of `softly` that is open, else by KeyboardInterrupt.
    The second one ends the process, as does the end of SIGTERM's time. For the main thread.
    """
    _state.forget()
    _state.watched = True
    reader, writer = _state.sockets = socket.socketpair()
    writer.setblocking(False)
    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    sys.unraisablehook = _raise_again
    descriptor = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=_watch, args=(reader, say), name="ftray-signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        # SIGTERM's time goes on: what is still to be closed may wait for something too.
        if _state.count == 0:
            sys.unraisablehook = sys.__unraisablehook__
            signal.set_wakeup_fd(descriptor)
            for number, handler in before.items():
                signal.signal(number, handler)
            writer.close()
            thread.join()
            reader.close()
            _state.forget()


@contextmanager
def softly(stop: Callable[[], None], promise: str) -> Iterator[None]:
    """Inside the block the first signal calls `stop` in place of raising KeyboardInterrupt.
    `promise`: what happens next, for the user. Elsewhere than in the main thread nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    way = _Way(stop, promise)
    _state.ways.append(way)
    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield
    finally:
        _state.ways.remove(way)
        for number, handler in before.items():
            signal.signal(number, handler)
        if not _state.ways and before[signal.SIGINT] is not handle:
            _state.forget()  # nobody acknowledges: the next block begins anew


def grant(seconds: float) -> None:
    """After SIGTERM: that much time from now on, for a checkpoint that is being saved."""
    if _state.deadline is not None:
        _state.deadline = max(_state.deadline, time.monotonic() + seconds)


def handle(number: int, frame: FrameType | None) -> None:
    """In the main thread, when Python lets it run."""
    _state.count += 1
    if _state.watched:
        _state.told.wait(_TOLD_S)  # first what happens, then that it happens
    if _state.count > 1 or not _state.ways:
        raise KeyboardInterrupt
    _state.ways[-1].stop()


def _raise_again(unraisable: Any) -> None:
    """Python drops an exception that is raised inside of a destructor or a weak reference's
    callback: a KeyboardInterrupt is raised once more, after that."""
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    # From another thread: raised in here it would be dropped as well.
    threading.Timer(_SOON_S, _raise_in_main).start()


def _raise_in_main() -> None:
    main = ctypes.c_ulong(threading.main_thread().ident or 0)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(main, ctypes.py_object(KeyboardInterrupt))


def _watch(reader: socket.socket, say: Callable[[str], None]) -> None:
    """The thread: a byte comes for each signal, nothing when the block is over."""
    seen = 0
    while True:
        if _state.deadline is not None:
            reader.settimeout(max(0.0, _state.deadline - time.monotonic()) or 0.001)
        try:
            numbers = reader.recv(16)
        except TimeoutError:
            if _state.deadline is not None and time.monotonic() >= _state.deadline:
                _end(say, "ended: the time after SIGTERM is over")
            continue
        if not numbers:
            return
        for number in numbers:
            if number not in _SIGNALS:
                continue
            seen += 1
            if seen > 1:
                _end(say, "ended at once")
            if number == signal.SIGTERM:
                _state.deadline = time.monotonic() + TERM_S
            promise = _state.ways[-1].promise if _state.ways else _PROMISE
            say(f"stopping: {promise}; Ctrl-C again ends at once")
            _state.told.set()


def _end(say: Callable[[str], None], line: str) -> None:
    """The kernel ends the processes of a Ray that this process has started."""
    say(line)
    os._exit(EXIT_INTERRUPTED)
