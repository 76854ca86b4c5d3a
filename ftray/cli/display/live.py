"""What a command is doing right now: a line that moves on a terminal, else one now and then."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from ftray.cli.display.table import duration, fitting, wrapped

QUIET_S = 30.0
"""Seconds without a line after which one is printed where there is no terminal."""
_LITTLE_S = 3.0
"""Seconds after which a line names a stage that most often is over by then."""
_REFRESH_HZ = 8
_ASIDE = 14
"""Columns of the spinner and of the time since the stage began."""


class LiveLine:
    """Names the stage that goes on, since when, and how far it has come."""

    def __init__(
        self,
        quiet_s: float = QUIET_S,
        clock: Callable[[], float] = time.monotonic,
        console: Console | None = None,
    ) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self._clock = clock
        self._quiet_s = quiet_s
        self._stage = ""
        self._unsaid = False
        """Whether the stage goes on without a line that says so."""
        self._parts: Callable[[], Sequence[str]] = tuple
        self._began = self._spoke = clock()
        self._spinner = Spinner("dots")
        self._live: Live | None = None
        self._over = threading.Event()
        self._lock = threading.RLock()

    @property
    def width(self) -> int:
        """Columns that a line may take; a great many where there is no terminal."""
        return self.console.width if self.console.is_terminal else 10_000

    @property
    def moves(self) -> bool:
        """Whether there is a terminal, on which the line moves by itself."""
        return self.console.is_terminal

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live = Live(
                get_renderable=self._render,
                console=self.console,
                refresh_per_second=_REFRESH_HZ,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        else:
            threading.Thread(target=self._speak_up, name="ftray-progress", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        if self._live is not None:
            self._live.stop()

    def stage(
        self, name: str, parts: Callable[[], Sequence[str]] = tuple, at_once: bool = True
    ) -> None:
        """From now on `name` goes on; `parts` tells how far it has come, what matters most first.
        Where there is no terminal a line says so, `at_once` or when it has lasted a little."""
        with self._lock:
            if name == self._stage:
                self._parts = parts
                return
            self._stage, self._parts, self._began = name, parts, self._clock()
            self._unsaid = not at_once
        if not self.moves and at_once:
            self.say(f"{name} …")

    def say(self, line: str) -> None:
        """A line that stays."""
        with self._lock:
            self._spoke = self._clock()
            if not self.moves:
                sys.stderr.write(f"{line}\n")
                sys.stderr.flush()
            else:
                self.console.print(wrapped(line, self.width), markup=False, soft_wrap=True)

    def interject(self, line: str) -> None:
        """A line from another thread, at once: the one that speaks may be held up in the middle of
        a line of its own. The process may end right after it, so the cursor is given back."""
        if self.moves:
            line = f"\r\x1b[2K{wrapped(line, self.width)}\x1b[?25h"
        os.write(sys.stderr.fileno(), f"{line}\n".encode())

    def text(self) -> str:
        """The stage and how far it has come, as far as there is room."""
        return fitting([self._stage, *self._parts()], self.width - _ASIDE)

    def _render(self) -> Table | Text:
        if not self._stage:
            return Text("")
        line = Table.grid(padding=(0, 1))
        for _ in range(3):
            line.add_column(no_wrap=True, overflow="ellipsis")
        spent = duration(self._clock() - self._began)
        line.add_row(self._spinner, Text(self.text()), Text(spent, style="dim"))
        return line

    def _speak_up(self) -> None:
        """The thread where there is no terminal."""
        while not self._over.wait(min(1.0, self._quiet_s / 4)):
            if self._unsaid and self._clock() - self._began >= _LITTLE_S:
                self._unsaid = False
                self.say(f"{self._stage} …")
            if self._stage and self._clock() - self._spoke >= self._quiet_s:
                self.say(f"{self.text()}  (for {duration(self._clock() - self._began)})")
