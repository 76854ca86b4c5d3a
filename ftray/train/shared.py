"""One set of weights, gradients and moments for all processes of a machine, in shared memory.

Between processes of one machine the way through the network stack is the expensive part of adding
up gradients on CPUs: each byte is copied several times, by the cores that compute; and each process
then makes the same update. Here the weights that train and the moments of AdamW lie in memory that
all ranks map. Each rank owns some of the tensors: it adds up their gradients, which every rank puts
where all can read them, and updates them for all. That is ZeRO 1 (Rajbhandari et al. 2020) without
a copy to send.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ftray.train.meeting import map_together
from ftray.train.ranks import Ranks

# One call for many tensors, as torch's own optimizers make it; there is no public name for it.
_add, _copy, _norm = torch._foreach_add_, torch._foreach_copy_, torch._foreach_norm  # noqa: SLF001
_FLOAT = 4  # bytes
_KINDS = 3  # of tensors that all ranks share one of: weights and two moments
Moments = dict[str, torch.Tensor]


class SharedState:
    """The weights of `parameters`, float32, and what AdamW keeps of them. Made by `open_shared`."""

    def __init__(self, ranks: Ranks, parameters: Sequence[nn.Parameter], memory: mmap.mmap) -> None:
        self._ranks = ranks
        self._memory = memory  # the tensors below are views of it
        self._parameters = list(parameters)
        sizes = [p.numel() for p in parameters]
        flat = torch.frombuffer(memory, dtype=torch.float32)
        rows = flat[: (_KINDS + ranks.world) * sum(sizes)].view(_KINDS + ranks.world, -1)
        weights, first, second, *slots = (self._cut(row, sizes) for row in rows)
        rest = flat[rows.numel() :].view(1 + ranks.world, len(sizes))
        self._norms, self._has = rest[0], rest[1:]
        """Norms of the summed gradients; 1 where a rank has a gradient, 0 where it has none."""
        self._slots = slots  # gradients of each rank, of what others update
        self._moments = {
            p: {"exp_avg": one, "exp_avg_sq": two}
            for p, one, two in zip(parameters, first, second, strict=True)
        }
        owner = _spread(sizes, ranks.world)
        self._mine = {index for index, rank in enumerate(owner) if rank == ranks.rank}
        self.reached: list[int] = []
        """Parameters, by index, of which any rank had a gradient in the last step."""
        self._share(weights)

    def _cut(self, row: torch.Tensor, sizes: list[int]) -> list[torch.Tensor]:
        pieces = row.split(sizes)
        return [piece.view(p.shape) for piece, p in zip(pieces, self._parameters, strict=True)]

    def _share(self, weights: list[torch.Tensor]) -> None:
        if self._ranks.rank == 0:
            _copy(weights, [p.data for p in self._parameters])
        self._ranks.wait()
        for parameter, weight in zip(self._parameters, weights, strict=True):
            parameter.data = weight

    def owned(self, groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The optimizer's groups with the parameters that this rank updates. One that updates none
        gets one without elements: an optimizer must have something."""
        mine = {id(self._parameters[index]) for index in self._mine}
        found = [{**g, "params": [p for p in g["params"] if id(p) in mine]} for g in groups]
        found = [group for group in found if group["params"]]
        return found or [{**groups[0], "params": [nn.Parameter(torch.empty(0))]}]

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Have the optimizer of the owned groups keep its moments here. They are zero."""
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if moments := self.moments(parameter):
                    optimizer.state[parameter] = {"step": torch.tensor(0.0), **moments}

    def moments(self, parameter: nn.Parameter) -> Moments | None:
        """exp_avg and exp_avg_sq, to be read and written in place; None for no such parameter."""
        return self._moments.get(parameter)

    def add_up(self) -> torch.Tensor:
        """Give the parameters that this rank updates the sum of all ranks' gradients, and the
        others none; returns the norm of all of them, the same on every rank.

        A rank without a gradient of a parameter (an expert that none of its tokens went to) adds
        zeros; a parameter without one on any rank gets none. Every rank must call it, and `settle`
        afterwards.
        """
        self._share_gradients()
        self._ranks.wait()
        self.reached = [i for i, found in enumerate(self._has.any(0).tolist()) if found]
        mine = [i for i in self.reached if i in self._mine]
        if mine:
            sums = self._sums(mine, [self._gradient(i) for i in mine])
            self._norms[mine] = torch.stack(_norm(sums))
        for index, parameter in enumerate(self._parameters):
            if index not in self._mine:
                parameter.grad = None
        self._ranks.wait()
        return torch.linalg.vector_norm(self._norms[self.reached])

    def _share_gradients(self) -> None:
        """Put this rank's gradients where the ranks that update those parameters read them."""
        found = [parameter.grad for parameter in self._parameters]
        self._has[self._ranks.rank] = torch.tensor([float(g is not None) for g in found])
        own = [slot for i, slot in enumerate(self._slots[self._ranks.rank]) if i not in self._mine]
        found = [gradient for i, gradient in enumerate(found) if i not in self._mine]
        there = [(s, g) for s, g in zip(own, found, strict=True) if g is not None]
        if there:
            slots, gradients = zip(*there, strict=True)
            _copy(slots, gradients)
        for slot, gradient in zip(own, found, strict=True):
            if gradient is None:
                slot.zero_()  # what an earlier step has left there

    def _gradient(self, index: int) -> torch.Tensor:
        """This rank's gradient of a parameter that it updates; zeros where it has none."""
        parameter = self._parameters[index]
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        return parameter.grad

    def _sums(self, mine: list[int], own: list[torch.Tensor]) -> list[torch.Tensor]:
        """`own` with the other ranks' gradients of the same tensors added, in place."""
        # Always in the order of the ranks: the rounding must not depend on who adds up.
        slots = [[slot[i] for i in mine] for slot in self._slots]
        before, after = slots[: self._ranks.rank], slots[self._ranks.rank + 1 :]
        if before:
            for slot in before[1:]:
                _add(before[0], slot)
            _add(own, before[0])
        for slot in after:
            _add(own, slot)
        return own

    def settle(self) -> None:
        """After the update: nobody may compute with weights that another rank still changes, nor
        write gradients where another still reads. Every rank must call it."""
        self._ranks.wait()


def _spread(sizes: Sequence[int], world: int) -> list[int]:
    """The rank that owns each tensor: the largest first, to whom has least."""
    load = [0] * world
    owner = [0] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        owner[index] = load.index(min(load))
        load[owner[index]] += sizes[index]
    return owner


def open_shared(ranks: Ranks, parameters: Sequence[nn.Parameter]) -> SharedState | None:
    """Shared memory for such parameters; None, on all ranks, when these are not on one machine, or
    it has no room for it, or the parameters are not float32 on CPUs. Every rank must call it."""
    if ranks.world == 1 or any(p.dtype != torch.float32 or p.is_cuda for p in parameters):
        return None
    elements = sum(p.numel() for p in parameters)
    rows = (_KINDS + ranks.world) * elements + (1 + ranks.world) * len(parameters)
    memory = map_together(_FLOAT * rows)
    return None if memory is None else SharedState(ranks, parameters, memory)
