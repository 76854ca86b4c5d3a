"""Memory of weights that lie in a memory-mapped file, as those that safetensors loads do: what was
read of the file stays in memory as long as any tensor maps the file."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from pathlib import Path

import torch

_MADV_DONTNEED = 4
_MAPS = Path("/proc/self/maps")

Range = tuple[int, int]


def mapped_files() -> list[Range]:
    """Return the address ranges of this process that map a file; none where the operating system
    does not list them."""
    if not _MAPS.exists():
        return []
    ranges = []
    for line in _MAPS.read_text().splitlines():
        addresses, _, _, _, inode, *_ = line.split()
        if inode != "0":
            start, stop = addresses.split("-")
            ranges.append((int(start, 16), int(stop, 16)))
    return ranges


def drop_pages(tensor: torch.Tensor, files: Sequence[Range]) -> None:
    """Drop the pages of a tensor from memory if they map one of `files`. Nothing may have changed
    the tensor; it can still be read, from the file."""
    start, stop = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    if not any(first <= start and stop <= last for first, last in files):
        return
    first, last = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, stop // mmap.PAGESIZE * mmap.PAGESIZE
    if last > first:
        libc = ctypes.CDLL(None)
        libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _MADV_DONTNEED)
