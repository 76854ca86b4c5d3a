"""Weights, gradients and moments that processes share, in real processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from ftray.train import meeting
from ftray.train.ranks import join_group
from ftray.train.shared import open_shared

SHAPES = ((5, 7), (3,), (1,), (2, 2, 2))
STEPS = 12
BROKEN = 7
"""The step in which a gradient is not finite."""
UNUSED = {(2, 4), (2, 5), (3, 9)}
"""Parameter and step where no rank has a gradient: AdamW leaves the parameter as it is."""


def parameters() -> list[nn.Parameter]:
    random = torch.Generator().manual_seed(5)
    return [nn.Parameter(torch.randn(shape, generator=random)) for shape in SHAPES]


def gradients(rank: int, step: int) -> list[torch.Tensor | None]:
    """Of each parameter; none of those that no row of this rank went through."""
    random = torch.Generator().manual_seed(100 * step + rank)
    found = [torch.randn(shape, generator=random) for shape in SHAPES]
    if step == BROKEN and rank == 1:
        found[0][0, 0] = float("nan")
    return [
        None if (index, step) in UNUSED or (index == 1 and (rank + step) % 3 == 0) else gradient
        for index, gradient in enumerate(found)
    ]


def added(parts: list[torch.Tensor | None]) -> torch.Tensor | None:
    there = [part for part in parts if part is not None]
    return sum(there[1:], there[0]) if there else None


def groups(of: list[nn.Parameter]) -> list[dict[str, Any]]:
    return [
        {"params": of[:2], "weight_decay": 0.1, "lr": 0.01},
        {"params": of[2:], "weight_decay": 0.0, "lr": 0.1},
    ]


def update(of: list[nn.Parameter], norm: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    present = [p for p in of if p.grad is not None]
    if torch.isfinite(norm):
        nn.utils.clip_grads_with_norm_(present, 1.0, norm)
        optimizer.step()
    optimizer.zero_grad()


def work(rank: int, world: int, folder: str, memory: str, results: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world
    )
    if memory:
        meeting._FOLDER = Path(memory)
    mine = parameters()
    if rank:  # what another rank has in its place does not count
        for parameter in mine:
            parameter.data.zero_()
    state = open_shared(join_group(), mine)
    if state is None:
        results.put((rank, None))
        dist.barrier()
        return
    optimizer = torch.optim.AdamW(state.owned(groups(mine)), fused=True)
    state.attach(optimizer)
    norms = []
    for step in range(STEPS):
        for parameter, gradient in zip(mine, gradients(rank, step), strict=True):
            parameter.grad = gradient
        norms.append(state.add_up())
        update(mine, norms[-1], optimizer)
        state.settle()
    moments = [state.moments(p) for p in mine]
    seconds = [m["exp_avg_sq"].tolist() for m in moments if m]
    values = [p.detach().tolist() for p in mine]
    results.put((rank, ([float(norm) for norm in norms], values, seconds)))
    dist.barrier()


def in_processes(world: int, folder: Path, memory: str = "") -> dict[int, Any]:
    context = mp.get_context("spawn")
    results = context.Queue()
    arguments = [(rank, world, str(folder), memory, results) for rank in range(world)]
    processes = [context.Process(target=work, args=args) for args in arguments]
    for process in processes:
        process.start()
    found = [results.get(timeout=300) for _ in processes]
    for process in processes:
        process.join(60)
    return dict(found)


@pytest.mark.parametrize("world", [5])  # of which one owns nothing
def test_all_ranks_end_with_what_one_process_makes_of_the_sum(world: int, tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    memory.mkdir()
    found = in_processes(world, tmp_path, str(memory))
    assert list(memory.iterdir()) == [], "it goes with the last process"
    mine, norms = parameters(), []
    optimizer = torch.optim.AdamW(groups(mine), fused=True)
    for step in range(STEPS):
        ranks = [gradients(rank, step) for rank in range(world)]
        for index, parameter in enumerate(mine):
            parameter.grad = added([parts[index] for parts in ranks])
        norms.append(nn.utils.get_total_norm([p.grad for p in mine if p.grad is not None]))
        update(mine, norms[-1], optimizer)
    expected = [float(norm) for norm in norms]
    for rank in range(world):
        seen, values, seconds = found[rank]
        assert str(seen) == str(expected), "to the bit, and what is no number hidden from nobody"
        assert values == [p.detach().tolist() for p in mine]
        assert seconds == [optimizer.state[p]["exp_avg_sq"].tolist() for p in mine]


@pytest.mark.parametrize("memory", ["/nowhere", "/proc"])
def test_without_such_memory_all_ranks_do_without(tmp_path: Path, memory: str) -> None:
    assert in_processes(2, tmp_path, memory) == {0: None, 1: None}
