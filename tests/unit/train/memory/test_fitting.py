"""The decision of what fits, apart from a device."""

from __future__ import annotations

import pytest
import torch

from ftray.spec.load import parse
from ftray.tasks import get_task
from ftray.train.distributed.context import DistContext
from ftray.train.memory.batch_size_finder import choose_micro_batch_size, largest_that_fits
from ftray.train.plan import Trainee, plan_training
from tests.helpers.models.tiny_networks import tiny_batch, tiny_network
from tests.helpers.training.loop_runs import task_setup


@pytest.mark.parametrize(
    ("start", "room", "expected"),
    [(64, 64, 64), (64, 63, 32), (64, 5, 4), (64, 1, 1), (64, 0, 0), (1, 1, 1), (1, 0, 0),
     (24, 23, 12), (25, 24, 13), (7, 3, 2)],
)  # fmt: skip
def test_halves_until_it_fits(start: int, room: int, expected: int) -> None:
    asked: list[int] = []

    def fits(size: int) -> bool:
        asked.append(size)
        return size <= room

    assert largest_that_fits(start, fits) == expected
    assert asked == sorted(set(asked), reverse=True), "each size once, largest first"


@pytest.mark.parametrize(("batch", "expected"), [(16, 16), (64, 32), (100, 25)])
def test_on_a_cpu_the_rule_decides_whatever_fits(batch: int, expected: int) -> None:
    spec = parse(
        {
            "name": "fit",
            "model": {"name_or_path": "unused"},
            "data": {"train": "unused"},
            "train": {"batch_size": batch},
        }
    )
    ranks = DistContext(0, 1, torch.device("cpu"))
    model = tiny_network("bert")
    plan = plan_training(model, spec.train, tiny_batch(), ranks)
    trainee = Trainee(model, plan, get_task(spec.task), task_setup())
    assert choose_micro_batch_size(spec, trainee, ranks, 64, before=2) == expected
