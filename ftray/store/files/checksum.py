"""Checksums of files: XXH3, 64 bits, as 16 hex digits.

They find what a disk or a copy has damaged, at some GB/s a core; nothing is proved against somebody
who wants to deceive.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash

_AT_ONCE = 8
_BLOCK = 2 << 20
"""Bytes that are read at once: they stay in the processor's and the system's caches."""


def of_content(content: bytes | pa.Buffer) -> str:
    return xxhash.xxh3_64_hexdigest(content)


def of_file(path: Path) -> str:
    """Raises OSError."""
    state: Any = xxhash.xxh3_64()
    block = memoryview(bytearray(_BLOCK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            state.update(block[:count])
    return state.hexdigest()


def of_files(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Name below `folder` -> checksum; several files at once. Raises OSError."""
    listed = list(names)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return dict(zip(listed, pool.map(lambda name: of_file(folder / name), listed), strict=True))


def damage(folder: Path, expected: Mapping[str, str]) -> str:
    """What is wrong with the first file below `folder` that is not as expected; empty when all
    are."""
    missing = [name for name in expected if not (folder / name).is_file()]
    if missing:
        return f"{missing[0]} is missing"
    found = of_files(folder, expected)
    changed = [name for name in expected if found[name] != expected[name]]
    return f"{changed[0]} is not what was written (its checksum differs)" if changed else ""
