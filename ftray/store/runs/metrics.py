"""Files of a run to which lines are added: metrics.jsonl, one JSON object a line, and log.txt.
Readers may read the files while they grow."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from ftray.store.files.conditional import Version
from ftray.store.files.document import open_document
from ftray.store.files.location import Location
from ftray.store.files.retry import fault

_REWRITE_EVERY = 5.0  # seconds between two rewrites of a remote file


class LineLog:
    """A file of lines, for one writer whose threads may share this object. confirm: raises an error
    where another process writes the file by now."""

    def __init__(self, location: Location, confirm: Callable[[], object]) -> None:
        self.location = location
        self._lock = threading.Lock()
        self._confirm = confirm
        self._document = open_document(location)
        self._written: Version | None = None
        self._pending: list[bytes] = []
        self._rewritten = 0.0

    def add(self, line: bytes) -> None:
        """Add a line, which ends with a line feed.

        An object store writes files only whole. There this object rewrites the file at most every 5
        seconds, and in `close`.
        """
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
            return [*self._content().splitlines(), *self._pending]

    def close(self) -> None:
        """Write the lines that `add` holds back."""
        with self._lock:
            if self._pending:
                self._rewrite()

    def _content(self) -> bytes:
        return self._document.read().content or b""

    def _rewrite(self) -> None:
        while True:
            before = self._written or self._document.read()
            kept = before.content or b""
            torn = b"\n" if kept and not kept.endswith(b"\n") else b""
            content = kept + torn + b"".join(self._pending)
            self._written = self._document.write(content, before)
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
