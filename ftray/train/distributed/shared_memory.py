"""Memory that all ranks of a process group map, where they run on one machine."""

from __future__ import annotations

import mmap
import os
import uuid
from pathlib import Path

from ftray.train.distributed.context import DistContext


def map_together(size: int, ranks: DistContext) -> mmap.mmap | None:
    """Return `size` bytes of zeros that all ranks map; None, on every rank, where they are not on
    one machine, or one must not read the files of another. Every rank must call this function."""
    name = f"ftray-{uuid.uuid4().hex}"
    file = _create(name, size) if ranks.rank == 0 else None
    try:
        wanted, path = ranks.gather((name, f"/proc/{os.getpid()}/fd/{file}"))[0]
        memory = _map(Path(path), wanted, size)
        return memory if ranks.all_agree(memory is not None) else None
    finally:
        if file is not None:
            os.close(file)  # the memory stays as long as a process maps it


def _create(name: str, size: int) -> int | None:
    """Return the descriptor of an anonymous file; None where the system offers none. Such a file,
    unlike one in /dev/shm, has no limit of its own."""
    if not hasattr(os, "memfd_create"):
        return None
    try:
        file = os.memfd_create(name)
    except OSError:
        return None
    os.ftruncate(file, size)
    return file


def _map(path: Path, name: str, size: int) -> mmap.mmap | None:
    """Map the anonymous file `name` at `path`; None where another file or none is there."""
    try:
        if not str(path.readlink()).startswith(f"/memfd:{name}"):
            return None
        with path.open("r+b") as file:
            return mmap.mmap(file.fileno(), size)
    except OSError:
        return None
