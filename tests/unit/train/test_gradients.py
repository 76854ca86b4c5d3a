"""Gradients are added up over two real processes."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from ftray.train.engine.gradients import add_up

SHAPES = [(300, 300), (7,), (2, 3), (400, 200)]


def parameters() -> list[nn.Parameter]:
    made = [nn.Parameter(torch.zeros(shape)) for shape in SHAPES]
    half = nn.Parameter(torch.zeros(5, dtype=torch.bfloat16))
    turned = nn.Parameter(torch.zeros(300, 400).t())
    return [*made, half, turned]


def gradients(rank: int) -> list[torch.Tensor | None]:
    """What a rank finds; no row of the second one went through two of the parameters."""
    torch.manual_seed(rank)
    found = [torch.randn(p.shape).to(p.dtype) for p in parameters()]
    return [None if rank and place in (1, 3) else g for place, g in enumerate(found)]


def work(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/s", rank=rank, world_size=2)
    ours = parameters()
    for parameter, gradient in zip(ours, gradients(rank), strict=True):
        parameter.grad = gradient
    add_up(ours)
    torch.save([parameter.grad for parameter in ours], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_every_rank_has_the_sum(tmp_path: Path) -> None:
    mp.spawn(work, (str(tmp_path),), nprocs=2)
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt")
        for sum_, first, second in zip(found, gradients(0), gradients(1), strict=True):
            assert first is not None
            assert torch.equal(sum_, first if second is None else first + second)
