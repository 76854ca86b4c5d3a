"""Small files that several processes change, each only from the version that it has read.

Who read an older version than the one that is there does not write: no change is lost, and of two
processes that want the same thing one gets it. On a local disk a file lock makes reading and
writing one step; an object store compares ETags or generations itself (If-None-Match, If-Match).

Files that are replaced while others read them are read as documents: pyarrow asks an object store
for a file's size first, and returns a cut-off file where a longer one comes in between.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from ftray.errors import StorageError
from ftray.store.files.conditional import Version, stored_document
from ftray.store.files.location import Location


class Document(Protocol):
    """One small file. Both methods raise StorageError where the storage does not answer."""

    def read(self) -> Version: ...

    def write(self, content: bytes, after: Version) -> Version | None:
        """Replace the version `after` by `content`; None, and nothing written, where the file is
        no longer at that version.

        Two processes that write the very same content may both be told that they did: content
        that makes a claim names who claims it."""
        ...


def open_document(location: Location) -> Document:
    """The document at `location`, which need not exist yet."""
    if location.is_local:
        return _LocalDocument(location)
    return stored_document(location) or _PlainDocument(location)


def change(document: Document, edit: Callable[[bytes | None], bytes | None]) -> None:
    """Write what `edit` makes of the content, again and again until no other process wrote in
    between. Nothing is written where `edit` returns None."""
    while True:
        version = document.read()
        content = edit(version.content)
        if content is None or document.write(content, version) is not None:
            return


class _PlainDocument:
    """On a file system without conditional writes (HDFS): looks, then writes. Two processes that
    do so within the same milliseconds may both believe that they wrote."""

    def __init__(self, location: Location) -> None:
        self._location = location

    def read(self) -> Version:
        try:
            return Version(self._location.read_bytes())
        except FileNotFoundError:
            return Version(None)
        except OSError as error:
            raise _unusable(self._location, "read", error) from None

    def write(self, content: bytes, after: Version) -> Version | None:
        if self.read().content != after.content:
            return None
        try:
            self._location.write_bytes(content)
        except OSError as error:
            raise _unusable(self._location, "written", error) from None
        return Version(content)


class _LocalDocument(_PlainDocument):
    """On a local or network disk."""

    def write(self, content: bytes, after: Version) -> Version | None:
        if after.content is not None and not self._location.exists():
            return None  # deleted, perhaps with its folder, which must not come back
        with self._locked():
            return super().write(content, after)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        path = Path(self._location.path)
        lock = path.with_name(f".{path.name}.lock")
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            file = lock.open("w")
        except OSError as error:
            raise _unusable(self._location, "written", error) from None
        with file:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _unusable(location: Location, verb: str, error: OSError) -> StorageError:
    problem = f"cannot be {verb}: {error.strerror or error}"
    return StorageError.of(location.url, None, problem, "free space or restore access")
