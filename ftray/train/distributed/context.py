"""The processes that train together, as the loop sees them: who am I, and add this up."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from ftray.cluster.device import limit_memory, own_device


@dataclass(frozen=True)
class DistContext:
    """This process among `world` data-parallel ones, which share torch's default group."""

    rank: int
    world: int
    device: torch.device

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Elementwise sum of a float64 array over all ranks. Every rank must call it."""
        if self.world == 1:
            return values
        values = np.asarray(values, dtype=np.float64)
        tensor = torch.from_numpy(values).to(self.device)
        dist.all_reduce(tensor)
        return tensor.cpu().numpy()

    def totals(self, values: torch.Tensor, own: torch.Tensor) -> list[float]:
        """The elementwise sum of `values` over all ranks, then `own` of this one: (N,) and (M,)
        float64 on the device. The host waits for the device once. Every rank must call it."""
        if self.world > 1:
            dist.all_reduce(values)
        found: list[float] = torch.cat([values, own]).tolist()
        return found

    def gather(self, value: Any) -> list[Any]:
        """`value` of every rank, by rank. Every rank must call it."""
        values: list[Any] = [value] * self.world
        if self.world > 1:
            dist.all_gather_object(values, value)
        return values

    def all_agree(self, answer: bool) -> bool:
        """True when `answer` is true on every rank."""
        return bool(self.sum(np.array([float(answer)]))[0] == self.world)


def join_group() -> DistContext:
    """The ranks of the process group that Ray Train has set up in this worker."""
    rank, world = dist.get_rank(), dist.get_world_size()
    device = own_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
        limit_memory(device)
    return DistContext(rank, world, device)


def alone() -> DistContext:
    """A group of this process only, made once and kept: a process that runs one Tune trial after
    the other must not tear down the group that DeepSpeed holds on to."""
    if not dist.is_initialized():
        # DeepSpeed asks the environment who it is; without these it goes looking for MPI.
        os.environ.update(
            RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0"
        )
        backend = "gloo" if own_device().type == "cpu" else "cpu:gloo,cuda:nccl"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    return join_group()
