"""Shares the trained weights and AdamW's moments between the ranks of one machine, in memory, at
ZeRO stage 0 on CPUs.

Between processes of one machine an all-reduce is expensive: the network stack copies each byte
several times, on the cores that compute. After it every rank makes the same update. Here each rank
owns some of the tensors. The other ranks copy the gradients of these tensors to shared memory; the
owner adds them up and updates the weights for all ranks. This is ZeRO 1 (Rajbhandari et al. 2020)
without the transfer of the weights.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from ftray.train.distributed.context import DistContext
from ftray.train.distributed.shared_memory import map_together

_COPIES = 3
"""Tensors that all ranks share for each parameter: its values and two moments."""
_LINE = 16
"""Elements of a processor's cache line; two ranks that write to one slow each other down."""


class SharedState:
    """Implements `UnshardedState` in memory that the ranks share. Created by `open_shared`."""

    def __init__(
        self, ranks: DistContext, parameters: Sequence[nn.Parameter], memory: mmap.mmap
    ) -> None:
        self._ranks = ranks
        self._parameters = list(parameters)
        cut = _cut(memory, self._parameters)
        values, first, second = next(cut), next(cut), next(cut)
        self._gradients = [next(cut) for _ in range(ranks.world)]
        """Shared memory to which each rank copies gradients for their owners: [rank][parameter]."""
        self._moments = {
            parameter: {"exp_avg": mean, "exp_avg_sq": square}
            for parameter, mean, square in zip(self._parameters, first, second, strict=True)
        }
        owners = _owners([parameter.numel() for parameter in self._parameters], ranks.world)
        self._mine = [place for place, owner in enumerate(owners) if owner == ranks.rank]
        self._others = [place for place, owner in enumerate(owners) if owner != ranks.rank]
        self._norms = torch.empty(0)
        self._share(values)

    def _share(self, values: list[torch.Tensor]) -> None:
        """Replace the values of the parameters by `values`, once rank 0 has written them there."""
        pairs = list(zip(self._parameters, values, strict=True))
        if self._ranks.rank == 0:
            for parameter, value in pairs:
                value.copy_(parameter.data)
        dist.barrier()
        for parameter, value in pairs:
            parameter.data = value

    def owned(self, groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        # A rank that updates nothing gets a parameter without elements: an optimizer needs one.
        mine = {id(self._parameters[place]) for place in self._mine}
        found = [{**g, "params": [p for p in g["params"] if id(p) in mine]} for g in groups]
        found = [group for group in found if group["params"]]
        return found or [{**groups[0], "params": [nn.Parameter(torch.empty(0))]}]

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        for place in self._mine:
            parameter = self._parameters[place]
            optimizer.state[parameter] = {"step": torch.tensor(0.0), **self.moments(parameter)}

    def moments(self, parameter: nn.Parameter) -> dict[str, torch.Tensor]:
        return self._moments[parameter]

    def add_up(self) -> None:
        """Leaves the parameters that other ranks update without a gradient."""
        own = self._gradients[self._ranks.rank]
        for place in self._others:
            gradient, self._parameters[place].grad = self._parameters[place].grad, None
            if gradient is None:
                own[place].zero_()
            else:
                own[place].copy_(gradient)
        dist.barrier()
        self._norms = torch.zeros(len(self._parameters))
        for place in self._mine:
            self._norms[place] = torch.linalg.vector_norm(self._summed(place))
        # No rank goes on before all have read: the next step writes to the same memory.
        dist.all_reduce(self._norms)

    def norm(self) -> torch.Tensor:
        return torch.linalg.vector_norm(self._norms)

    def _summed(self, place: int) -> torch.Tensor:
        """Add the other ranks' gradients of a parameter to that of this rank, in the order of the
        ranks, so that the rounding does not depend on the owner. Return the sum."""
        parameter = self._parameters[place]
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        given = [of_rank[place] for of_rank in self._gradients]
        before, after = given[: self._ranks.rank], given[self._ranks.rank + 1 :]
        for one in before[1:]:
            before[0].add_(one)
        for one in (*before[:1], *after):
            parameter.grad.add_(one)
        return parameter.grad

    def settle(self) -> None:
        dist.barrier()

    def close(self) -> None:
        for parameter in self._parameters:
            parameter.data = parameter.data.clone()


def open_shared(ranks: DistContext, parameters: Sequence[nn.Parameter]) -> SharedState | None:
    """Move the values of `parameters`, at least one, into memory that all ranks share. Returns
    None, on every rank, where the ranks are not on one machine, or the parameters are not all
    contiguous fp32 on CPUs. Every rank must call this function."""
    if ranks.world == 1 or not all(map(_suits, parameters)):
        return None
    size = sum(_stride(p) for p in parameters) * (_COPIES + ranks.world) * torch.float32.itemsize
    memory = map_together(size, ranks)
    return None if memory is None else SharedState(ranks, parameters, memory)


def _suits(parameter: nn.Parameter) -> bool:
    is_plain = parameter.dtype == torch.float32 and parameter.device.type == "cpu"
    return is_plain and parameter.is_contiguous() and parameter.numel() > 0


def _stride(parameter: nn.Parameter) -> int:
    """Return the elements from the start of one tensor to that of the next one."""
    return -(-parameter.numel() // _LINE) * _LINE


def _cut(memory: mmap.mmap, parameters: Sequence[nn.Parameter]) -> Iterator[list[torch.Tensor]]:
    """Yield tensors with the shapes of the parameters from `memory`, again and again."""
    start = 0
    while True:
        found = []
        for parameter in parameters:
            flat = torch.frombuffer(
                memory, dtype=torch.float32, count=parameter.numel(), offset=start
            )
            found.append(flat.view(parameter.shape))
            start += _stride(parameter) * torch.float32.itemsize
        yield found


def _owners(sizes: Sequence[int], world: int) -> list[int]:
    """Return the rank that owns each tensor: the largest first, each to the rank with the least."""
    loads = [0] * world
    owners = [0] * len(sizes)
    for place in sorted(range(len(sizes)), key=lambda place: -sizes[place]):
        owners[place] = loads.index(min(loads))
        loads[owners[place]] += sizes[place]
    return owners
