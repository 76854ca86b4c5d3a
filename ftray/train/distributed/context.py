"""The process group of a training run: this process's rank, and collective operations."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from ftray.cluster.device import limit_memory, own_device


@dataclass(frozen=True)
class DistContext:
    """This process as one of `world` data-parallel ranks in torch's default process group."""

    rank: int
    world: int
    device: torch.device

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Sum a float64 array elementwise over all ranks. Every rank must call this method."""
        if self.world == 1:
            return values
        values = np.asarray(values, dtype=np.float64)
        tensor = torch.from_numpy(values).to(self.device)
        dist.all_reduce(tensor)
        return tensor.cpu().numpy()

    def totals(self, values: torch.Tensor, own: torch.Tensor) -> list[float]:
        """Return the elementwise sum of `values` over all ranks, followed by this rank's `own`.

        Both are float64 on the device: (N,) and (M,). The host waits for the device once. Every
        rank must call this method.
        """
        if self.world > 1:
            dist.all_reduce(values)
        found: list[float] = torch.cat([values, own]).tolist()
        return found

    def assembled(
        self, parts: Sequence[torch.Tensor], places: Sequence[torch.Tensor], count: int
    ) -> torch.Tensor:
        """Return (count, ...) rows of which each rank has some. parts: tensors with this rank's
        rows; places: of each part, where its rows belong. Every rank must call this method."""
        whole = parts[0].new_zeros((count, *parts[0].shape[1:]))
        for part, at in zip(parts, places, strict=True):
            whole[at] = part
        if self.world > 1:
            dist.all_reduce(whole)  # adds zeros: exact
        return whole

    def gather(self, value: Any) -> list[Any]:
        """Gather `value` from every rank into a list ordered by rank. Every rank must call this
        method."""
        values: list[Any] = [value] * self.world
        if self.world > 1:
            dist.all_gather_object(values, value)
        return values

    def all_agree(self, answer: bool) -> bool:
        """Return whether `answer` is true on every rank. Every rank must call this method."""
        return bool(self.sum(np.array([float(answer)]))[0] == self.world)


def join_group() -> DistContext:
    """Return the context of torch's default process group, which Ray Train has set up in its
    workers, and select this rank's device."""
    rank, world = dist.get_rank(), dist.get_world_size()
    device = own_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
        limit_memory(device)
    return DistContext(rank, world, device)


def alone() -> DistContext:
    """Return the context of a process group with this process as its only rank.

    The group is created once and kept: DeepSpeed holds a reference to it, so a process that runs
    several Tune trials in turn must not destroy the group between them.
    """
    if not dist.is_initialized():
        # DeepSpeed reads its rank from these variables; without them it tries to use MPI.
        os.environ.update(
            RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0"
        )
        backend = "gloo" if own_device().type == "cpu" else "cpu:gloo,cuda:nccl"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    return join_group()
