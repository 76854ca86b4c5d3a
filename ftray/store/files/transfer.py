"""Copies files between this machine and a remote store: several at once, and only what is missing
on a retry."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from ftray.store.files.retry import Attempts

_AT_ONCE = 8
_BLOCK = 32 << 20
"""Bytes of one read request."""


def put(fs: pafs.FileSystem, path: str, content: bytes | pa.Buffer) -> None:
    """Write one object in one piece: closing a stream after half of the content would make an
    object of that half."""
    with fs.open_output_stream(path) as stream:
        stream.write(content)


def upload(
    fs: pafs.FileSystem, folder: str, files: Mapping[str, Path], url: str, patience: float
) -> None:
    """Copy local files to their names below `folder`. Raises as `files.retry.Attempts.failed`."""
    _all(
        {name: partial(_put_file, fs, f"{folder}/{name}", file) for name, file in files.items()},
        Attempts(url, patience),
    )


def download(
    fs: pafs.FileSystem,
    files: Mapping[str, Path],
    sizes: Mapping[str, int],
    url: str,
    patience: float,
) -> None:
    """Copy each file to its local path; large files in blocks that are read in parallel. Raises as
    `ftray.store.files.retry.Attempts.failed`."""
    actions: dict[Hashable, Callable[[], Any]] = {}
    for path, target in files.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            file.truncate(sizes[path])
        for start in range(0, sizes[path], _BLOCK):
            length = min(_BLOCK, sizes[path] - start)
            actions[path, start] = partial(_get_block, fs, path, target, start, length)
    _all(actions, Attempts(url, patience))


def _put_file(fs: pafs.FileSystem, path: str, file: Path) -> None:
    if not file.stat().st_size:
        put(fs, path, b"")
        return
    with pa.memory_map(str(file)) as mapped:
        put(fs, path, mapped.read_buffer())


def _get_block(fs: pafs.FileSystem, path: str, target: Path, start: int, length: int) -> None:
    with fs.open_input_file(path) as stream:
        block = stream.read_at(length, start)
    if len(block) != length:
        raise ConnectionResetError(f"{len(block)} of {length} bytes of {path} came")
    with target.open("r+b") as file:
        os.pwrite(file.fileno(), block, start)


def _all(actions: Mapping[Hashable, Callable[[], Any]], attempts: Attempts) -> None:
    """Call each action, several at once, and call failed ones again. The caller's thread waits
    between the attempts, so that a signal ends the wait."""
    left = dict(actions)
    while left:
        failure: OSError | None = None
        with ThreadPoolExecutor(min(_AT_ONCE, len(left))) as pool:
            running = {pool.submit(action): key for key, action in left.items()}
            for done in as_completed(running):
                error = done.exception()
                if error is None:
                    del left[running[done]]
                    attempts.progressed()
                elif isinstance(error, OSError):
                    failure = error
                    pool.shutdown(wait=False, cancel_futures=True)
                else:
                    raise error
        if failure is not None:
            attempts.failed(failure)
