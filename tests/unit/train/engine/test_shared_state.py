"""Several real processes train one copy of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from ftray.train.distributed import shared_memory
from ftray.train.distributed.context import join_group
from ftray.train.engine.optimizer import AGE, SCALE
from ftray.train.engine.shared_state import SharedState, open_shared

SHAPES = [(60, 30), (7,), (2, 3), (), (40, 20)]
STEPS = 3


def parameters() -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape)) for shape in SHAPES]


def gradients(rank: int, step: int) -> list[torch.Tensor | None]:
    """What a rank finds. No rank's rows went through parameter 2 in step 1, and those of rank 0
    alone went through parameter 4 in step 2."""
    torch.manual_seed(10 * step + rank)
    found: list[torch.Tensor | None] = [torch.randn(shape) for shape in SHAPES]
    if step == 1:
        found[2] = None
    if step == 2 and rank:
        found[4] = None
    return found


def groups(ours: list[nn.Parameter]) -> list[dict[str, Any]]:
    return [
        {"params": ours[:2], SCALE: 1.0, AGE: 0, "weight_decay": 0.1},
        {"params": ours[2:], SCALE: 1.0, AGE: 0, "weight_decay": 0.0},
    ]


def adamw(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=0.1, fused=True)


def summed(world: int, step: int) -> list[torch.Tensor]:
    sums = []
    for place, shape in enumerate(SHAPES):
        found = [g for rank in range(world) if (g := gradients(rank, step)[place]) is not None]
        total = torch.zeros(shape)
        for one in found:
            total = total + one
        sums.append(total)
    return sums


def apart(work: Callable[..., None], world: int, folder: Path) -> list[Any]:
    """Run `work` in `world` ranks; return what each of them saved."""
    mp.spawn(_joined, (work, world, str(folder)), nprocs=world)
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]


def _joined(rank: int, work: Callable[..., Any], world: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/s", rank=rank, world_size=world)
    torch.save(work(rank), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def opened(ours: list[nn.Parameter]) -> tuple[SharedState, torch.optim.Optimizer]:
    shared = open_shared(join_group(), ours)
    assert shared is not None
    optimizer = adamw(shared.owned(groups(ours)))
    shared.attach(optimizer)
    return shared, optimizer


def trained(rank: int) -> dict[str, Any]:
    ours = parameters()
    shared, optimizer = opened(ours)
    norms = []
    for step in range(STEPS):
        for parameter, gradient in zip(ours, gradients(rank, step), strict=True):
            parameter.grad = gradient
        shared.add_up()
        norms.append(shared.norm())
        optimizer.step()
        shared.settle()
    moments = [{k: v.clone() for k, v in shared.moments(p).items()} for p in ours]
    shared.close()
    values = [parameter.detach().clone() for parameter in ours]
    for parameter in ours:
        parameter.data += rank  # each rank has its own values again
    after = [parameter.detach() - rank for parameter in ours]
    return {"norms": norms, "values": values, "moments": moments, "after": after}


def test_training_is_that_of_one_process_with_the_sums_of_the_gradients(tmp_path: Path) -> None:
    world, ours = 3, parameters()
    optimizer = adamw(groups(ours))
    norms = []
    for step in range(STEPS):
        for parameter, gradient in zip(ours, summed(world, step), strict=True):
            parameter.grad = gradient
        norms.append(nn.utils.get_total_norm([p.grad for p in ours if p.grad is not None]))
        optimizer.step()
    for found in apart(trained, world, tmp_path):
        assert torch.equal(torch.stack(found["norms"]), torch.stack(norms))
        for parameter, value, moments, after in zip(
            ours, found["values"], found["moments"], found["after"], strict=True
        ):
            assert torch.equal(value, parameter)
            for key in ("exp_avg", "exp_avg_sq"):
                assert torch.equal(moments[key], optimizer.state[parameter][key])
            assert torch.allclose(after, parameter, atol=1e-6)


def odd_cases(rank: int) -> dict[str, Any]:
    return {"broken": broken(rank), "lonely": lonely(rank), "refused": refused(rank)}


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two ranks found in each of the cases below."""
    return apart(odd_cases, 2, tmp_path_factory.mktemp("odd"))


def broken(rank: int) -> torch.Tensor:
    ours = parameters()
    shared, _ = opened(ours)
    for parameter in ours:
        parameter.grad = torch.zeros_like(parameter)
        parameter.grad[...] = math.nan if rank and parameter.ndim == 1 else 0.0
    shared.add_up()
    return shared.norm()


def test_a_gradient_that_is_not_finite_on_one_rank_is_known_to_all(odd: list[Any]) -> None:
    assert all(found["broken"].isnan() for found in odd)


def lonely(rank: int) -> torch.Tensor:
    """Train one parameter: one of the ranks has nothing to update."""
    only = nn.Parameter(torch.zeros(4))
    shared = open_shared(join_group(), [only])
    assert shared is not None
    optimizer = adamw(shared.owned([{"params": [only], SCALE: 1.0, AGE: 0}]))
    shared.attach(optimizer)
    only.grad = torch.ones(4)
    shared.add_up()
    optimizer.step()
    shared.settle()
    return only.detach().clone()


def test_a_rank_may_have_nothing_to_update(odd: list[Any]) -> None:
    first, second = (found["lonely"] for found in odd)
    assert torch.equal(first, second)
    assert (first < 0).all()


def refused(rank: int) -> list[bool]:
    """Ask for parameters in half precision, for others that are not contiguous or empty, and, as a
    rank in a container of its own does, for memory of a process that is not to be seen."""
    ranks = join_group()
    half = [nn.Parameter(torch.zeros(4, dtype=torch.bfloat16))]
    turned = [nn.Parameter(torch.zeros(4, 3).t())]
    empty = [nn.Parameter(torch.zeros(0))]
    found = [open_shared(ranks, each) is None for each in (half, turned, empty)]
    elsewhere = (lambda path: Path("/proc/self/fd/0")) if rank else Path
    with patch.object(shared_memory, "Path", elsewhere):
        return [*found, open_shared(ranks, parameters()) is None]


def test_ranks_that_cannot_share_memory_are_told_so_together(odd: list[Any]) -> None:
    assert [found["refused"] for found in odd] == [[True] * 4] * 2
