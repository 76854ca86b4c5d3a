"""Small files that several processes change, each process only over the version that it has read.

A process that read an older version than the present one cannot write: no change is lost, and of
two processes that claim the same thing, one gets it. On a local disk a file lock makes reading and
writing one step. An object store compares ETags or generations itself (If-None-Match, If-Match).

Readers of a file that others replace must also open it as a document: pyarrow asks an object store
for the file's size first, and returns a truncated file where a longer one arrives in between.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Protocol

from pydantic import BaseModel, ConfigDict

from ftray.errors import StorageError
from ftray.store.files.conditional import Version, stored_document
from ftray.store.files.location import Location


class Frozen(BaseModel):
    """A part of a JSON file that another version of ftray may have written."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Document(Protocol):
    """One small file. Both methods raise StorageError where the storage does not answer."""

    def read(self) -> Version: ...

    def write(self, content: bytes, after: Version) -> Version | None:
        """Replace the version `after` by `content`. Where the file is no longer at that version,
        write nothing and return None.

        Where two processes write the very same content, both may be told that they wrote it. So
        content that makes a claim names the process that claims."""
        ...


def open_document(location: Location) -> Document:
    """Open the document at `location`; the file need not exist yet."""
    if location.is_local:
        return _LocalDocument(location)
    return stored_document(location) or _PlainDocument(location)


def change(document: Document, edit: Callable[[bytes | None], bytes | None]) -> None:
    """Write the content that `edit` returns; read and edit again while other processes write in
    between. Writes nothing where `edit` returns None."""
    while True:
        version = document.read()
        content = edit(version.content)
        if content is None or document.write(content, version) is not None:
            return


class _PlainDocument:
    """A document on a file system without conditional writes (HDFS): compares, then writes. Two
    processes that do so within the same milliseconds may both believe that they wrote."""

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
    """A document on a local or network disk."""

    def write(self, content: bytes, after: Version) -> Version | None:
        if after.content is not None and not self._location.exists():
            return None  # the file is deleted; its folder, perhaps deleted too, must not come back
        path = Path(self._location.path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            held = lock(path.with_name(f".{path.name}.lock"))
        except OSError as error:
            raise _unusable(self._location, "written", error) from None
        with held:
            return super().write(content, after)


def lock(path: Path) -> IO[str]:
    """Open the file `path`, and wait until no other process or thread holds its lock. Closing the
    file gives the lock back. Raises OSError where the file cannot be opened."""
    file = path.open("w")
    with suppress(OSError):  # a file system without locks
        fcntl.flock(file, fcntl.LOCK_EX)
    return file


def _unusable(location: Location, verb: str, error: OSError) -> StorageError:
    problem = f"cannot be {verb}: {error.strerror or error}"
    return StorageError.of(location.url, None, problem, "free space or restore access")
