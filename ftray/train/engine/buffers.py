"""Synchronizes the buffers that training changes, such as BatchNorm's running statistics.

Each rank updates its buffers from its own rows. After every optimizer step an all-reduce sets float
buffers to their mean over the ranks and integer buffers, which are counters, to their maximum. So
evaluations, checkpoints and the exported model reflect the rows of all ranks at any step.
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
        """frozen: names of frozen modules, inside which no buffer changes. A submodule that never
        runs may still be in train mode there, so train mode alone does not decide."""
        self._ranks = ranks
        inside = tuple(f"{name}." for name in frozen)
        self._places = {
            name: place
            for name, place in saved_buffers(model).items()
            if place[0].training and not name.startswith(inside)
        }
        self._agreed = copied(self._places)

    def values(self) -> dict[str, torch.Tensor]:
        """Return a copy of each buffer on the CPU, by its name in the model."""
        return {name: value.cpu() for name, value in copied(self._places).items()}

    def agree(self) -> None:
        """Set the buffers on every rank to their mean over the ranks (integers: the maximum). Every
        rank must call this method."""
        if self._ranks.world > 1:
            found = [module.get_buffer(key) for module, key in self._places.values()]
            floats = [buffer for buffer in found if buffer.is_floating_point()]
            whole = [buffer for buffer in found if not buffer.is_floating_point()]
            _reduce(floats, torch.float64, dist.ReduceOp.SUM, self._ranks.world)
            _reduce(whole, torch.int64, dist.ReduceOp.MAX, 1)
        self._agreed = copied(self._places)

    def restore(self) -> None:
        """Restore the values of the last `agree`, after a step that the engine skipped."""
        put_back(self._places, self._agreed)

    def kept(self) -> AbstractContextManager[None]:
        """Return a context that restores the buffers at its end, for the recomputation of a forward
        pass, which would update them a second time."""
        return kept(self._places)

    def still(self, wanted: bool) -> AbstractContextManager[None]:
        """Return a context in which the modules, if `wanted`, use their buffers in eval mode and do
        not update them."""
        return in_mode(self._places, training=False) if wanted else nullcontext()


def _reduce(
    buffers: list[torch.Tensor], dtype: torch.dtype, operation: dist.ReduceOp.RedOpType, share: int
) -> None:
    """All-reduce all `buffers` in one call and divide the result by `share`, in place."""
    if not buffers:
        return
    flat = torch.cat([buffer.flatten().to(dtype) for buffer in buffers])
    dist.all_reduce(flat, operation)
    pieces = (flat / share if share > 1 else flat).split([buffer.numel() for buffer in buffers])
    for buffer, piece in zip(buffers, pieces, strict=True):
        buffer.copy_(piece.view(buffer.shape))
