"""Shows the present stage of a command: a live line on a terminal, else a line now and then."""

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
"""Seconds without a line after which a line is printed where there is no terminal."""
_LITTLE_S = 3.0
"""Seconds after which a line names a stage that usually ends sooner."""
_REFRESH_HZ = 8
_ASIDE = 14
"""Columns of the spinner and of the time since the stage began."""


class LiveLine:
    """The line with the present stage, its progress, and the time since it began."""

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
        """Whether no line has named the present stage yet."""
        self._parts: Callable[[], Sequence[str]] = tuple
        self._began = self._spoke = clock()
        self._spinner = Spinner("dots")
        self._live: Live | None = None
        self._over = threading.Event()
        self._lock = threading.RLock()

    @property
    def width(self) -> int:
        """Columns that a line may take; 10,000 where there is no terminal."""
        return self.console.width if self.console.is_terminal else 10_000

    @property
    def moves(self) -> bool:
        """Whether stderr is a terminal, on which the line updates by itself."""
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
        """Begin the stage `name`; `parts` returns its progress, the most important part first.
        Where there is no terminal, a line names the stage, `at_once` or once it lasts 3 s."""
        with self._lock:
            if name == self._stage:
                self._parts = parts
                return
            self._stage, self._parts, self._began = name, parts, self._clock()
            self._unsaid = not at_once
        if not self.moves and at_once:
            self.say(f"{name} …")

    def say(self, line: str) -> None:
        """Print a line that stays."""
        with self._lock:
            self._spoke = self._clock()
            if not self.moves:
                sys.stderr.write(f"{line}\n")
                sys.stderr.flush()
            else:
                self.console.print(wrapped(line, self.width), markup=False, soft_wrap=True)

    def interject(self, line: str) -> None:
        """Print a line at once from another thread, as the printing thread may hang in the middle
        of a line. Also shows the cursor again, as the process may end right after the line."""
        if self.moves:
            line = f"\r\x1b[2K{wrapped(line, self.width)}\x1b[?25h"
        os.write(sys.stderr.fileno(), f"{line}\n".encode())

    def text(self) -> str:
        """Return the stage and as much of its progress as fits."""
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
        """Run the thread that prints where there is no terminal."""
        while not self._over.wait(min(1.0, self._quiet_s / 4)):
            if self._unsaid and self._clock() - self._began >= _LITTLE_S:
                self._unsaid = False
                self.say(f"{self._stage} …")
            if self._stage and self._clock() - self._spoke >= self._quiet_s:
                self.say(f"{self.text()}  (for {duration(self._clock() - self._began)})")
