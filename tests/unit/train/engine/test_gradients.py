"""Gradients are added up over two real processes."""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from ftray.train.engine.gradients import add_up, tables

SHAPES = [(300, 300), (7,), (2, 3), (400, 200)]
TABLE = (5000, 300)


def parameters() -> list[nn.Parameter]:
    made = [nn.Parameter(torch.zeros(shape)) for shape in SHAPES]
    half = nn.Parameter(torch.zeros(5, dtype=torch.bfloat16))
    turned = nn.Parameter(torch.zeros(300, 400).t())
    return [*made, half, turned, *(nn.Parameter(torch.zeros(TABLE)) for _ in range(3))]


def gradients(rank: int) -> list[torch.Tensor | None]:
    """What a rank finds; no row of the second one went through two of the parameters. The batches
    of the ranks looked up other rows of the first table, none of the second, all of the third."""
    torch.manual_seed(rank)
    found = [torch.randn(p.shape).to(p.dtype) for p in parameters()]
    found[-3][torch.randperm(len(found[-3]))[40:]] = 0
    found[-2].zero_()
    return [None if rank and place in (1, 3) else g for place, g in enumerate(found)]


def work(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/s", rank=rank, world_size=2)
    ours = parameters()
    for parameter, gradient in zip(ours, gradients(rank), strict=True):
        parameter.grad = gradient
    add_up(ours, set(ours[-3:]))
    torch.save([parameter.grad for parameter in ours], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_every_rank_has_the_sum(tmp_path: Path) -> None:
    mp.spawn(work, (str(tmp_path),), nprocs=2)
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt")
        for sum_, first, second in zip(found, gradients(0), gradients(1), strict=True):
            assert first is not None
            assert torch.equal(sum_, first if second is None else first + second)


def test_a_row_that_is_not_finite_on_one_rank_is_so_on_all(tmp_path: Path) -> None:
    mp.spawn(broken, (str(tmp_path),), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    assert all(g[3].isnan().any() and g[4].isinf().any() for g in found)


def broken(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/s", rank=rank, world_size=2)
    table = nn.Parameter(torch.zeros(TABLE))
    table.grad = torch.zeros(TABLE)
    table.grad[3 + rank, 0] = (math.nan, math.inf)[rank]
    add_up([table], {table})
    torch.save(table.grad, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_tables_are_embeddings_that_train_and_stand_alone() -> None:
    model = nn.ModuleDict({name: nn.Embedding(*TABLE) for name in ("alone", "tied", "frozen")})
    model["small"] = nn.Embedding(3, 4)
    model["dense"] = nn.Linear(*TABLE)
    model["head"] = nn.Linear(TABLE[1], TABLE[0], bias=False)
    model["head"].weight = model["tied"].weight
    model["frozen"].requires_grad_(False)
    assert tables(model) == {model["alone"].weight}
