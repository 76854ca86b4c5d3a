"""Buffers that training changes, on two real processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from ftray.models.structure.blocks import FreezePlan
from ftray.train.distributed.context import DistContext
from ftray.train.engine import state
from ftray.train.engine.buffers import MovingBuffers

ALONE = DistContext(0, 1, torch.device("cpu"))


class Watched(nn.Module):
    """Has buffers of several kinds; that which is not saved with a model is its own affair."""

    def __init__(self) -> None:
        super().__init__()
        self.below, self.norm = nn.BatchNorm1d(3), nn.BatchNorm1d(3, dtype=torch.float32)
        self.register_buffer("started", torch.tensor(False))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        self.started = torch.tensor(True)
        self.scratch += 1
        return self.norm(self.below(rows))


def watched() -> Watched:
    model = Watched()
    model.train()
    model.below.eval()
    return model


def work(rank: int, folder: str, results: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/s", rank=rank, world_size=2)
    model = watched()
    buffers = MovingBuffers(model, DistContext(rank, 2, torch.device("cpu")))
    if rank == 0:  # the other one had no rows
        model(torch.arange(12.0).view(4, 3))
    before = listed(buffers)
    buffers.agree()
    results.put((rank, before, listed(buffers)))
    dist.barrier()


def listed(buffers: MovingBuffers) -> dict[str, Any]:
    return {name: value.tolist() for name, value in buffers.values().items()}


def test_ranks_agree_on_means_and_on_the_highest_count(tmp_path: Path) -> None:
    context = mp.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=work, args=(r, str(tmp_path), results)) for r in (0, 1)]
    for process in processes:
        process.start()
    found = {rank: parts for rank, *parts in (results.get(timeout=120) for _ in processes)}
    for process in processes:
        process.join(30)
    (before, after), (other, same) = found[0], found[1]
    statistics = {"norm.running_mean", "norm.running_var"}
    assert before.keys() == {*statistics, "norm.num_batches_tracked", "started"}
    for name in statistics:
        assert before[name] != other[name]
        pairs = zip(before[name], other[name], strict=True)
        assert after[name] == pytest.approx([(one + two) / 2 for one, two in pairs])
    assert after["norm.num_batches_tracked"] == 1
    assert after["started"] is True
    assert after == same


def test_what_a_step_that_was_left_out_has_changed_is_undone() -> None:
    model = watched()
    buffers = MovingBuffers(model, ALONE)
    model(torch.ones(4, 3))
    buffers.agree()
    good = buffers.values()
    model(torch.full((4, 3), float("nan")))
    assert buffers.values()["norm.running_mean"].isnan().all()
    buffers.restore()
    assert all(torch.equal(good[name], value) for name, value in buffers.values().items())


def test_one_row_is_normed_without_moving_anything() -> None:
    model = watched()
    buffers = MovingBuffers(model, ALONE)
    with pytest.raises(ValueError, match="more than 1 value"):
        model.norm(torch.ones(1, 3))
    before = buffers.values()
    with buffers.still(True):
        assert model.norm(torch.ones(1, 3)).shape == (1, 3)
    assert model.norm.training
    assert all(torch.equal(before[name], value) for name, value in buffers.values().items())


def test_statistics_stay_with_weights_that_are_frozen() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.BatchNorm1d(3, affine=False))
    plan = FreezePlan(("0.weight",), (), (), 0, 9, 18)
    plan.apply(model)
    plan.set_train_mode(model)
    assert [module.training for module in model] == [True, False, True]
    assert set(MovingBuffers(model, ALONE).values()) == {
        f"2.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")
    }


def test_they_go_into_a_checkpoint_and_out_of_it(tmp_path: Path) -> None:
    model = watched()
    model(torch.arange(12.0).view(4, 3))
    buffers = MovingBuffers(model, ALONE).values()
    state.write(state.State({"norm.weight": torch.full((3,), 2.0)}, buffers=buffers), tmp_path)
    other = watched()
    state.load_values(other, state.trained_values(tmp_path))
    assert torch.equal(other.norm.running_mean, model.norm.running_mean)
    assert other.norm.num_batches_tracked == 1
    assert other.norm.weight.tolist() == [2.0] * 3
    assert state.read(tmp_path).buffers.keys() == buffers.keys()
