"""Copies of remote files on this node, which its processes share: the first one that asks for a
file fetches it, and all of them map the same pages of memory."""

from __future__ import annotations

import logging
import os
import shutil
import time
from pathlib import Path

from ftray.store.files.document import lock
from ftray.store.files.location import Location, locate

log = logging.getLogger(__name__)

_UNUSED_S = 7 * 24 * 3600
"""Seconds after which a folder of copies that nobody used goes."""
_ROOM = 2
"""Free bytes on the disk for each byte of a copy."""


def node_copy(file: Location, folder: str, size: int) -> Location:
    """Return the copy of a remote file on this node; fetch it unless it is there. Return `file`
    itself where it is local, and where this node's disk has no room for `size` bytes more.

    folder: name of the folder of the copy, another one for other contents. Raises as
    `Location.download`.
    """
    if file.is_local:
        return file
    target = _copies() / folder / file.name
    if not target.exists():
        if not _is_writable(target.parent, size):
            log.warning("%s has no room for a copy of %s", target.parent, file)
            return file
        with lock(target.with_name(f".{file.name}.lock")):
            if not target.exists():
                part = target.with_name(f".{file.name}.part")
                file.download(part)
                part.rename(target)
    os.utime(target.parent)
    return locate(str(target))


def _copies() -> Path:
    return Path.home() / ".cache" / "ftray" / "data"


def _is_writable(folder: Path, size: int) -> bool:
    """Make the folder; return whether it can be written and has room."""
    try:
        if not folder.exists():
            _forget(folder.parent)
        folder.mkdir(parents=True, exist_ok=True)
        return os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > _ROOM * size
    except OSError:
        return False


def _forget(copies: Path) -> None:
    """Delete the folders that nobody has used for a week."""
    before = time.time() - _UNUSED_S
    for folder in copies.glob("*"):
        if folder.stat().st_mtime < before:
            shutil.rmtree(folder, ignore_errors=True)
