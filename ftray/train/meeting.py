"""Where the processes of one machine meet: in memory that all of them map.

A step of a few ten milliseconds waits for the other ranks several times. Through the network stack
each time costs as much as a small layer, and the threads that serve it take the cores from those
that compute.
"""

from __future__ import annotations

import mmap
import os
import platform
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist

_FOLDER = Path("/dev/shm")
_LINE = 64  # bytes of a cache line: counters on one would slow each other down
_VALUES = 4096  # of the largest sum
_SPINS = 2000  # some milliseconds; who waits longer than that no longer holds its core
_NAP_S = 1e-4
# Where one core sees what another one wrote in the order in which it wrote it.
_ORDERED = ("x86_64", "AMD64")


class Meeting:
    """`rank` of `world` processes that map the same `memory`, at first zero."""

    def __init__(self, memory: mmap.mmap, rank: int, world: int) -> None:
        self._memory = memory  # the arrays below are views of it
        self._rank, self._world = rank, world
        lines = np.frombuffer(memory, np.int64, world * _LINE // 8).reshape(world, -1)
        self._arrived = lines[:, 0]
        self._sums = np.frombuffer(memory, np.float64, 2 * world * _VALUES, world * _LINE).reshape(
            2, world, _VALUES
        )
        self._round = 0
        cores = len(os.sched_getaffinity(0))
        self._spins = _SPINS if world <= cores else 0

    def wait(self) -> None:
        """Until all are here. Every rank must call it."""
        self._round += 1
        self._arrived[self._rank] = self._round
        spins = 0
        while self._arrived.min() < self._round:
            time.sleep(0 if spins < self._spins else _NAP_S)
            spins += 1

    def sum(self, values: np.ndarray) -> np.ndarray | None:
        """Elementwise sum of a float64 array over all ranks, in their order; None where it is too
        large. Every rank must call it."""
        if values.size > _VALUES:
            return None
        # In turns one half and the other: nobody is two rounds ahead of one who still reads.
        rows = self._sums[self._round % 2, :, : values.size]
        rows[self._rank] = values.ravel()
        self.wait()
        total = rows[0].copy()
        for row in rows[1:]:
            total += row
        return total.reshape(values.shape)


def open_meeting() -> Meeting | None:
    """Of the ranks of torch's default group; None, on all of them, when they cannot meet so. Every
    rank must call it."""
    rank, world = dist.get_rank(), dist.get_world_size()
    ordered: list[Any] = [None] * world
    dist.all_gather_object(ordered, platform.machine() in _ORDERED)
    if not all(ordered):
        return None
    memory = map_together(world * (_LINE + 2 * 8 * _VALUES))
    return None if memory is None else Meeting(memory, rank, world)


def map_together(size: int) -> mmap.mmap | None:
    """`size` bytes of zeros that all ranks of torch's default group map; None, on all of them,
    when they are not on one machine or it has no room. Every rank must call it."""
    rank, world = dist.get_rank(), dist.get_world_size()
    names: list[Any] = [None] * world
    dist.all_gather_object(names, f"ftray-{uuid.uuid4().hex}")
    path = _FOLDER / names[0]
    found: list[Any] = [None] * world
    try:
        memory = _map(path, size) if rank == 0 else None
        dist.barrier()
        if rank > 0:
            memory = _map(path, size, exists=True)
        dist.all_gather_object(found, memory is not None)
    finally:
        if rank == 0:
            path.unlink(missing_ok=True)  # the memory stays for as long as somebody maps it
    return memory if all(found) else None


def _map(path: Path, size: int, exists: bool = False) -> mmap.mmap | None:
    try:
        descriptor = os.open(
            path, os.O_RDWR if exists else os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600
        )
    except OSError:
        return None  # no such folder, or that of another machine
    try:
        # Memory that is only promised would be missed when it is written, by a signal that kills.
        os.posix_fallocate(descriptor, 0, size)
        return mmap.mmap(descriptor, size)
    except OSError:
        return None
    finally:
        os.close(descriptor)
