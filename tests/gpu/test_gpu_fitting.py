"""The micro batch that a real GPU holds. Skips itself without one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from ftray.spec.load import parse
from ftray.spec.schema import Spec
from ftray.tasks import get_task
from ftray.train.distributed.context import DistContext
from ftray.train.memory.batch_size_finder import choose_micro_batch_size
from ftray.train.plan import Trainee, plan_training
from tests.helpers.models.tiny_networks import tiny_batch, tiny_network
from tests.helpers.training.loop_runs import task_setup

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def chosen(wanted: Spec, model: Any, ranks: DistContext, longest: int) -> int:
    """As a worker chooses it."""
    plan = plan_training(model, wanted.train, tiny_batch(), ranks)
    trainee = Trainee(model, plan, get_task(wanted.task), task_setup())
    return choose_micro_batch_size(wanted, trainee, ranks, longest)


def spec(**train: Any) -> Spec:
    base = {"name": "fit", "model": {"name_or_path": "unused"}, "data": {"train": "unused"}}
    return parse({**base, "train": {"batch_size": 4096, **train}})


@pytest.fixture
def ranks() -> DistContext:
    return DistContext(0, 1, torch.device("cuda", 0))


def test_a_small_model_takes_the_whole_batch_and_is_left_as_it_was(ranks: DistContext) -> None:
    model = tiny_network("bert")
    before = copy.deepcopy(model.state_dict())
    assert chosen(spec(batch_size=64), model, ranks, 32) == 64
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_a_batch_that_does_not_fit_is_halved_until_it_does(ranks: DistContext) -> None:
    model = tiny_network("bert", hidden_size=512, intermediate_size=2048, num_attention_heads=8)
    torch.cuda.set_per_process_memory_fraction(
        2e9 / torch.cuda.get_device_properties(0).total_memory
    )
    try:
        size = chosen(spec(precision="fp32"), model, ranks, 64)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert 1 <= size < 4096
    assert 4096 % size == 0
    assert torch.cuda.memory_allocated() < 2**20, "nothing of the probe is left"


def test_a_size_that_is_set_is_not_probed(ranks: DistContext) -> None:
    model = tiny_network("bert")
    assert chosen(spec(micro_batch_size=3), model, ranks, 32) == 3
    assert torch.cuda.memory_allocated() < 2**20
