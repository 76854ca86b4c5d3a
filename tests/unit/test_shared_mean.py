"""The mean over processes through shared memory, in real processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ftray.train import shared_mean
from ftray.train.ranks import join_group
from ftray.train.shared_mean import open_shared

SHAPES = ((5, 7), (3,), (1,), (2, 2, 2))


def gradients(rank: int, step: int) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(100 * step + rank)
    return [torch.randn(shape, generator=random) for shape in SHAPES]


def work(rank: int, world: int, folder: str, memory: str, results: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world
    )
    if memory:
        shared_mean._FOLDER = Path(memory)
    shared = open_shared(join_group(), 200)
    found = []
    for step in range(20 if shared else 0):
        mine = gradients(rank, step)
        if step == 19 and rank == 1:
            mine[0][0, 0] = float("nan")
        shared.average(mine)  # type: ignore[union-attr]
        found.append([tensor.numpy() for tensor in mine])
    results.put((rank, shared is not None, found))
    dist.barrier()


def in_processes(world: int, folder: Path, memory: str = "") -> dict[int, tuple[bool, list[Any]]]:
    context = mp.get_context("spawn")
    results = context.Queue()
    arguments = [(rank, world, str(folder), memory, results) for rank in range(world)]
    processes = [context.Process(target=work, args=args) for args in arguments]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(20)
    return {rank: (opened, values) for rank, opened, values in found}


def test_every_rank_gets_the_mean_of_all(tmp_path: Path) -> None:
    before = set(Path("/dev/shm").iterdir())
    found = in_processes(3, tmp_path)
    assert {p for p in Path("/dev/shm").iterdir() if p.name.startswith("ftray-")} <= before
    for step in range(19):
        parts = zip(*(gradients(rank, step) for rank in range(3)), strict=True)
        expected = [(one + two + three) / 3 for one, two, three in parts]
        for rank in range(3):
            values = [torch.from_numpy(value) for value in found[rank][1][step]]
            assert all(torch.equal(v, e) for v, e in zip(values, expected, strict=True))
    for rank in range(3):
        assert torch.from_numpy(found[rank][1][19][0]).isnan().sum() == 1, "not hidden from anyone"


@pytest.mark.parametrize("memory", ["/nowhere", "/proc"])
def test_without_such_memory_all_ranks_do_without(tmp_path: Path, memory: str) -> None:
    found = in_processes(2, tmp_path, memory)
    assert {rank: opened for rank, (opened, _) in found.items()} == {0: False, 1: False}
