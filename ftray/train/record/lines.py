"""The lines that a run says, in the file log.txt of its folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from ftray.store.runs.folder import RunFolder


class Lines:
    """The lines that a run says to its user; the run's log.txt gets them, too, and those that were
    said before the run had a folder."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._early: list[tuple[datetime, str]] = []
        self._run: RunFolder | None = None

    def __call__(self, line: str) -> None:
        self._say(line)
        self.keep(line)

    def keep(self, line: str) -> None:
        """Write a line to log.txt alone."""
        now = datetime.now(UTC)
        if self._run is None:
            self._early.append((now, line))
        else:
            self._run.log(line, now)

    @contextmanager
    def into(self, run: RunFolder) -> Iterator[None]:
        """Write to the log.txt of `run` in this block, also ftray's warnings."""
        self._run = run
        for at, line in self._early:
            run.log(line, at)
        handler = _Warnings(self)
        logging.getLogger("ftray").addHandler(handler)
        try:
            yield
        finally:
            logging.getLogger("ftray").removeHandler(handler)
            self._run, self._early = None, []


class _Warnings(logging.Handler):
    def __init__(self, lines: Lines) -> None:
        super().__init__(logging.WARNING)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.keep(record.getMessage())
