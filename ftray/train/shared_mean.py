"""Gradients added up through memory that the processes of one machine share.

Between processes of one machine the way through the network stack is the expensive part of adding
up gradients on CPUs: each byte is copied several times, by the cores that compute. Here each rank
writes its gradients where all can read them, adds up its part of all ranks', and reads the whole.
"""

from __future__ import annotations

import mmap
import os
import uuid
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist

from ftray.train.ranks import Ranks

_FOLDER = Path("/dev/shm")
_FLOAT = 4  # bytes


class SharedMean:
    """The mean over ranks of float32 tensors. Made by `open_shared`."""

    def __init__(self, ranks: Ranks, memory: mmap.mmap) -> None:
        self._ranks = ranks
        self._memory = memory  # the tensor below is a view of it
        self._slots = torch.frombuffer(memory, dtype=torch.float32).view(ranks.world, -1)

    def average(self, tensors: Sequence[torch.Tensor]) -> None:
        """Put the mean over all ranks in place of each tensor. Every rank must call it, with
        tensors of the same shapes in the same order, of no more elements than were asked for."""
        mine, whole = self._views(self._ranks.rank, tensors), self._views(0, tensors)
        torch._foreach_copy_(mine, list(tensors))  # noqa: SLF001
        dist.barrier()
        self._add_up_my_part(sum(tensor.numel() for tensor in tensors))
        dist.barrier()
        torch._foreach_copy_(list(tensors), whole)  # noqa: SLF001
        # Nobody may write the next ones while another still reads these.
        dist.barrier()

    def _add_up_my_part(self, count: int) -> None:
        """Always in the order of the ranks, so that every rank sees the same rounding."""
        share = -(-count // self._ranks.world)
        start = share * self._ranks.rank
        part = self._slots[:, start : min(count, start + share)]
        for rank in range(1, self._ranks.world):
            part[0].add_(part[rank])
        part[0].div_(self._ranks.world)

    def _views(self, slot: int, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        sizes = [tensor.numel() for tensor in tensors]
        pieces = self._slots[slot, : sum(sizes)].split(sizes)
        return [piece.view(tensor.shape) for piece, tensor in zip(pieces, tensors, strict=True)]


def open_shared(ranks: Ranks, elements: int) -> SharedMean | None:
    """Shared memory for so many elements a rank; None, on all ranks, when they are not on one
    machine, or it has no room for it. Every rank must call it."""
    if ranks.world == 1 or ranks.device.type != "cpu":
        return None
    size = ranks.world * max(1, elements) * _FLOAT
    path = _FOLDER / ranks.gather(f"ftray-{uuid.uuid4().hex}")[0]
    try:
        memory = _map(path, size) if ranks.rank == 0 else None
        dist.barrier()
        if ranks.rank > 0:
            memory = _map(path, size, exists=True)
        found = ranks.all_agree(memory is not None)
    finally:
        if ranks.rank == 0:
            path.unlink(missing_ok=True)  # the memory stays for as long as somebody maps it
    return SharedMean(ranks, memory) if found and memory is not None else None


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
