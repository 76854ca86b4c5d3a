"""Handles SIGINT and SIGTERM: acknowledges the signal at once, and ends the command soon.

The main thread may be deep inside a library that lets no Python handler run. So a separate thread,
which the signal wakes, acknowledges the first signal. That thread also ends the process at the
second signal, and when the time after SIGTERM is over.
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
    """The soft end of a part of a command: the call that stops it, and what the user then gets."""

    stop: Callable[[], None]
    promise: str


class _State:
    """The signal state of this process, as signals go to the whole process."""

    ways: list[_Way]
    count: int
    deadline: float | None
    watched: bool
    """Whether a thread acknowledges signals."""
    sockets: tuple[socket.socket, socket.socket] | None
    """The socket pair that wakes the thread; kept open as long as signals may come."""
    told: threading.Event
    """Set once the thread has acknowledged the first signal."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self.ways, self.count, self.deadline = [], 0, None
        self.sockets = None
        self.watched, self.told = False, threading.Event()


_state = _State()


@contextmanager
def acknowledged(say: Callable[[str], None]) -> Iterator[None]:
    """Acknowledge SIGINT and SIGTERM inside the block; for the main thread.

    Another thread calls `say` at the first signal. The signal then ends the block: through the
    innermost open `softly`, else by KeyboardInterrupt. The second signal ends the process, and so
    does the end of the time after SIGTERM.
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
        # The time after SIGTERM goes on running: the command's cleanup may hang too.
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
    """Let the first signal inside the block call `stop` in place of raising KeyboardInterrupt.

    `promise`: what happens next, in words for the user. Does nothing outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    way, outer = _Way(stop, promise), signal.getsignal(signal.SIGINT)
    _state.ways.append(way)
    try:
        with handled_by(handle):
            yield
    finally:
        _state.ways.remove(way)
        if not _state.ways and outer is not handle:
            _state.forget()  # no thread acknowledges signals here: the next block begins anew


@contextmanager
def handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Let `handler` handle SIGINT and SIGTERM inside the block; for the main thread."""
    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def grant(seconds: float) -> None:
    """Give the command `seconds` from now on to save a checkpoint, if SIGTERM has come."""
    if _state.deadline is not None:
        _state.deadline = max(_state.deadline, time.monotonic() + seconds)


def handle(number: int, frame: FrameType | None) -> None:
    """Handle a signal; Python calls this handler in the main thread once that thread can run it."""
    _state.count += 1
    if _state.watched:
        _state.told.wait(_TOLD_S)  # first the line that says what happens, then the event
    if _state.count > 1 or not _state.ways:
        raise KeyboardInterrupt
    _state.ways[-1].stop()


def _raise_again(unraisable: Any) -> None:
    """Raise a KeyboardInterrupt again that Python dropped.

    Python drops an exception raised inside a destructor or a weak reference's callback. This hook
    raises a KeyboardInterrupt once more, after the destructor or callback."""
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    # Another thread raises it: raised inside this hook, it would be dropped as well.
    threading.Timer(_SOON_S, _raise_in_main).start()


def _raise_in_main() -> None:
    main = ctypes.c_ulong(threading.main_thread().ident or 0)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(main, ctypes.py_object(KeyboardInterrupt))


def _watch(reader: socket.socket, say: Callable[[str], None]) -> None:
    """Run the thread that acknowledges signals. `reader` gives one byte a signal, and no bytes once
    the block is over."""
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
    """End this process at once. The kernel then ends the processes of a Ray that it started."""
    say(line)
    os._exit(EXIT_INTERRUPTED)
