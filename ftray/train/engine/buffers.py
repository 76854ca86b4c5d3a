"""Buffers that training changes: BatchNorm's running statistics, and what is like them.

Each rank updates them from its own rows. After every optimizer step the ranks take the mean (of
integers, the counters, the highest), so that evaluations, checkpoints and the exported model are
those of all ranks and do not depend on when they are made.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
from torch import nn

from ftray.models.structure.buffers import copied, in_mode, kept, put_back, saved_buffers
from ftray.train.distributed.context import DistContext


class MovingBuffers:
    """The persistent buffers of those modules of `model` that are in train mode."""

    def __init__(self, model: nn.Module, ranks: DistContext, frozen: Collection[str] = ()) -> None:
        """frozen: names of modules within which nothing changes, also where a module never runs."""
        self._ranks = ranks
        inside = tuple(f"{name}." for name in frozen)
        self._places = {
            name: place
            for name, place in saved_buffers(model).items()
            if place[0].training and not name.startswith(inside)
        }
        self._agreed = copied(self._places)

    def values(self) -> dict[str, torch.Tensor]:
        """A copy of each on the CPU, by its name in the model."""
        return {name: value.cpu() for name, value in copied(self._places).items()}

    def agree(self) -> None:
        """Give every rank the mean over the ranks. Every rank must call it."""
        if self._ranks.world > 1:
            found = [module.get_buffer(key) for module, key in self._places.values()]
            floats = [buffer for buffer in found if buffer.is_floating_point()]
            whole = [buffer for buffer in found if not buffer.is_floating_point()]
            _reduce(floats, torch.float64, dist.ReduceOp.SUM, self._ranks.world)
            _reduce(whole, torch.int64, dist.ReduceOp.MAX, 1)
        self._agreed = copied(self._places)

    def restore(self) -> None:
        """Undo what was changed since the ranks last agreed: the step was left out."""
        put_back(self._places, self._agreed)

    def kept(self) -> AbstractContextManager[None]:
        """What changes within is undone: a forward pass is computed a second time."""
        return kept(self._places)

    def still(self, wanted: bool) -> AbstractContextManager[None]:
        """Where `wanted`, the modules use their buffers as they are and do not change them."""
        return in_mode(self._places, training=False) if wanted else nullcontext()


def _reduce(
    buffers: list[torch.Tensor], dtype: torch.dtype, operation: dist.ReduceOp.RedOpType, share: int
) -> None:
    """One all-reduce for all `buffers`, in place, divided by `share`."""
    if not buffers:
        return
    flat = torch.cat([buffer.flatten().to(dtype) for buffer in buffers])
    dist.all_reduce(flat, operation)
    pieces = (flat / share if share > 1 else flat).split([buffer.numel() for buffer in buffers])
    for buffer, piece in zip(buffers, pieces, strict=True):
        buffer.copy_(piece.view(buffer.shape))
