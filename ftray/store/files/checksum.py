"""Checksums of files: XXH3, 64 bits, as 16 hex digits.

A checksum reveals damage by a disk or a copy, and a core computes it at some GB/s. It does not
protect from a person who alters files on purpose.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash

_AT_ONCE = 8
_BLOCK = 2 << 20
"""Bytes of one read: small enough to stay in the caches of the processor and the system."""


def of_content(content: bytes | pa.Buffer) -> str:
    return xxhash.xxh3_64_hexdigest(content)


def of_file(path: Path) -> str:
    """Return the checksum of a file. Raises OSError."""
    state: Any = xxhash.xxh3_64()
    # The block is a mapping of its own, which the kernel takes back at once. malloc would keep a
    # freed block for each thread that ever read a file.
    with (
        path.open("rb", buffering=0) as file,
        mmap.mmap(-1, _BLOCK) as mapped,
        memoryview(mapped) as block,
    ):
        while count := file.readinto(block):
            with block[:count] as read:
                state.update(read)
    return state.hexdigest()


def of_files(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Map each name below `folder` to its checksum; reads several files at once. Raises OSError."""
    listed = list(names)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return dict(zip(listed, pool.map(lambda name: of_file(folder / name), listed), strict=True))


def damage(folder: Path, expected: Mapping[str, str]) -> str:
    """Describe the first missing or changed file below `folder`; empty when all files are as
    expected."""
    missing = [name for name in expected if not (folder / name).is_file()]
    if missing:
        return f"{missing[0]} is missing"
    found = of_files(folder, expected)
    changed = [name for name in expected if found[name] != expected[name]]
    return f"{changed[0]} is not what was written (its checksum differs)" if changed else ""
