"""Files of a run to which lines are added: metrics.jsonl, one JSON object a line, and log.txt.
Readers may read the files while they grow."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic_core import to_json

from ftray.store.files.conditional import Version
from ftray.store.files.document import Document, open_document
from ftray.store.files.location import Location
from ftray.store.files.retry import fault

EVALUATION = "evaluation_seconds"
"""Key of a recorded epoch: seconds from its last step to the end of its evaluation."""
ENCODING = "encoding the rows"
"""The first stage that a run records: every attempt to go on with a run begins with it."""
_REWRITE_EVERY = 5.0  # seconds between two rewrites of a remote file
_SEGMENT = 2**20  # bytes of a remote file, beyond which the next lines go to a file of their own


class LineLog:
    """A file of lines, for one writer whose threads may share this object. confirm: raises an error
    where another process writes the file by now.

    An object store writes files only whole. There the lines lie in segments: metrics.jsonl,
    metrics.1.jsonl and so on, of which only the last is written again.
    """

    def __init__(self, location: Location, confirm: Callable[[], object]) -> None:
        self.location = location
        self._lock = threading.Lock()
        self._confirm = confirm
        self._full: list[bytes] = []
        """The segments before the last, as far as this object has read them: they never change."""
        self._number = 0
        self._written: Version | None = None
        """The segment `_number` as this object has written it."""
        self._pending: list[bytes] = []
        self._rewritten = 0.0

    def add(self, line: bytes) -> None:
        """Add a line, which ends with a line feed. In an object store, this object writes the last
        segment at most every 5 seconds, and in `close`."""
        with self._lock:
            if self.location.is_local:
                _append(Path(self.location.path), line)
                return
            self._pending.append(line)
            if time.monotonic() - self._rewritten >= _REWRITE_EVERY:
                self._rewrite()

    def lines(self) -> list[bytes]:
        """Return the lines, also those that this object holds back."""
        with self._lock:
            segments = self._segments()
            return [*(line for each in segments for line in each.splitlines()), *self._pending]

    def close(self) -> None:
        """Write the lines that `add` holds back."""
        with self._lock:
            if self._pending:
                self._rewrite()

    def _segments(self) -> list[bytes]:
        """Return the content of each segment."""
        last = self._read(len(self._full))
        if self.location.is_local:
            return [last or b""]
        while last is not None and (after := self._read(len(self._full) + 1)) is not None:
            # Lines may have come between the two reads; none come now that there is a next one.
            self._full.append(self._read(len(self._full)) or b"")
            last = after
        return [*self._full, last or b""]

    def _read(self, number: int) -> bytes | None:
        return self._segment(number).read().content

    def _segment(self, number: int) -> Document:
        name = PurePosixPath(self.location.name)
        own = f"{name.stem}.{number}{name.suffix}" if number else name.name
        return open_document(self.location.parent / own)

    def _rewrite(self) -> None:
        while True:
            if self._written is None:
                self._number = len(self._segments()) - 1
            before = self._written or self._segment(self._number).read()
            if len(before.content or b"") >= _SEGMENT:
                self._number, before = self._number + 1, Version(None)
            kept = before.content or b""
            torn = b"\n" if kept and not kept.endswith(b"\n") else b""
            content = kept + torn + b"".join(self._pending)
            self._written = self._segment(self._number).write(content, before)
            if self._written is not None:
                break
            self._confirm()
        self._pending = []
        self._rewritten = time.monotonic()


class MetricsLog(LineLog):
    """The file metrics.jsonl."""

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a record. The values nan and infinity, which JSON lacks, become null."""
        self.add(to_json(dict(record), inf_nan_mode="null") + b"\n")

    def read(self) -> list[dict[str, Any]]:
        """Return the records, also those held back. Skips torn lines of killed processes."""
        records = []
        for line in self.lines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                records.append(record)
        return records


def _append(path: Path, line: bytes) -> None:
    try:
        with path.open("ab+") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    line = b"\n" + line  # a killed process left its last line torn
            file.write(line)
    except OSError as error:
        raise fault(error, str(path)) from None
