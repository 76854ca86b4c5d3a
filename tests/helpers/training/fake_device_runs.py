"""Runs the parts of a training step on a fake device that is not the CPU.

A tensor on the wrong device raises. All parts, from the baselines to the optimizer update, are the
real ones, over fake tensors. Only DeepSpeed has a stand-in, which calls the module and runs the
backward pass of its loss.

    python -m tests.helpers.training.fake_device_runs gpt2

runs one model family with and without adapters and with and without a trunk cache. Each run needs a
process of its own: autograd learns at the first backward pass which devices exist, and never again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from ftray.data.batches import BatchPlan
from ftray.data.encoding.encoded import EncodedSplit
from ftray.models.structure.activation_checkpointing import enable_checkpointing
from ftray.models.structure.blocks import count_blocks
from ftray.models.structure.cut import cut_off, find_cut
from ftray.models.structure.placing import placed, sketch
from ftray.spec.load import parse
from ftray.tasks import get_task
from ftray.tasks.features import Example, Layout
from ftray.train import context, loop
from ftray.train.context import TrainContext
from ftray.train.distributed.context import DistContext
from ftray.train.engine import deepspeed_state, lora
from ftray.train.engine.deepspeed import TrainedModule
from ftray.train.engine.phased import PhasedEngine
from ftray.train.evaluation.baselines import Encoder
from ftray.train.memory.batch_size_finder import choose_micro_batch_size
from ftray.train.plan import Trainee, plan_training
from ftray.train.progress import Progress
from ftray.train.trunk_cache.cache import Trunk, TrunkCache
from tests.helpers.models.tiny_networks import tiny_batch, tiny_generator, tiny_network
from tests.helpers.training.fake_gpu import fake_gpu, reading_once, without_numbers_here
from tests.helpers.training.loop_runs import LABELS, Watcher, random_split, task_setup


class OneRank(DistContext):
    """A single rank that counts how often the host waits for the device."""

    waits: list[str] = []

    def totals(self, values: torch.Tensor, own: torch.Tensor) -> list[float]:
        assert values.device == own.device == self.device
        self.waits.append("totals")
        return [1.0, *[0.0] * (len(values) - 1), *[1.0] * len(own)]


class StandIn:
    """The methods of a DeepSpeed engine that ftray's engine calls."""

    def __init__(self, model: nn.Module, optimizer: Any, config: Any) -> None:
        self.module, self.optimizer = model, optimizer

    def __call__(self, **inputs: torch.Tensor) -> Any:
        return self.module(**inputs)

    def train(self) -> None:
        self.module.train()

    def eval(self) -> None:
        self.module.eval()

    def backward(self, loss: torch.Tensor, **_: Any) -> None:
        loss.backward()

    def is_gradient_accumulation_boundary(self) -> bool:
        return True

    def step(self) -> None: ...


class BlankTrunk(Trunk):
    """Gives hidden states with the right shape for any example."""

    def __init__(self, cache: TrunkCache, features: Any) -> None:
        self.cache, self._features = cache, features

    def states(self, examples: Sequence[Example], layout: Layout | None = None) -> torch.Tensor:
        assert layout is None, "no case shares rows"
        return self.blank(len(examples), max(len(example["input_ids"]) for example in examples))


@contextmanager
def without_deepspeed() -> Iterator[None]:
    fake = SimpleNamespace(initialize=lambda **options: (StandIn(**options), None, None, None))
    with ExitStack() as stack:
        patches = {"import_deepspeed": lambda device: fake}
        for name in ("check_optimizer", "turn_off_allreduce", "overflowed"):
            patches[name] = lambda engine: False
        for name, stand_in in patches.items():
            stack.enter_context(patch.object(deepspeed_state, name, stand_in))
        # torch cannot move a module with fake tensors in place.
        stack.enter_context(patch.object(TrainedModule, "to", lambda self, device: self))
        OneRank.waits.clear()
        yield


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("text-classification", {"unfreeze": 1}),
    "deberta-v2": ("text-classification", {"unfreeze": "all", "layer_decay": 0.5}),
    "distilbert": ("text-classification", {"unfreeze": 0, "balance": "weights"}),
    "gpt2": ("text-generation", {"unfreeze": 1}),
    "llama": ("text-generation", {"unfreeze": "all", "gradient_checkpointing": True}),
}


def spec_of(task: str, **train: Any) -> Any:
    return parse(
        {
            "name": "fake",
            "task": task,
            "model": {"name_or_path": "x"},
            "data": {"train": "x.csv"},
            "train": {"batch_size": 8, "precision": "fp32", "deepspeed": {"stage": 0}, **train},
        }
    )


def model_of(family: str, task: str) -> Any:
    model = tiny_network(family) if task == "text-classification" else tiny_generator(family)
    model.config.use_cache = False
    return model


def rows_of(task: Any) -> EncodedSplit:
    """20 random rows; of a generating task all tokens but the first are learnt."""
    rows = random_split(20, 0)
    if task.info.has_labels:
        return rows
    columns = {
        "input_ids": pa.array([rows.example(row)["input_ids"] for row in range(20)]),
        "spans": pa.array([[1, length] for length in rows.lengths.tolist()], pa.list_(pa.int32())),
        "learnt_tokens": pa.array(rows.lengths - 1),
        "row": pa.array(range(20)),
    }
    return EncodedSplit([pa.table(columns)], task.features(task_setup()))


def run(family: str, trunk: bool, adapts: bool) -> None:
    """Plans, probes memory, trains two steps and evaluates.

    Raises where a tensor is on the wrong device.
    """
    task_name, train = CASES[family]
    spec = spec_of(task_name, **train, **({"lora": {"rank": 2}} if adapts else {}))
    model, task = model_of(family, task_name), get_task(task_name)
    cut = find_cut(model, count_blocks(model) - train["unfreeze"], tiny_batch(2)) if trunk else None
    if adapts:
        lora.inject(model, spec)
    gpu = fake_gpu()
    ranks = OneRank(0, 1, gpu)
    split, own = rows_of(task), task_setup(LABELS if task.info.has_labels else ())
    # Pinned memory needs a real GPU, and fake tensors exist only in the thread that created them.
    # So batches are made here, without the feeding thread.
    made_here = [
        patch.object(module, "feed", lambda make, orders, device: map(make, orders))
        for module in (loop, context)
    ]
    with without_numbers_here(), made_here[0], made_here[1]:
        model = sketch(model)
        if task.info.has_labels and not adapts:
            with placed(model, gpu):
                list(Encoder(model, task, own, ranks).features(split, np.arange(20)))
        devices = {tensor.device.type for tensor in (*model.parameters(), *model.buffers())}
        assert devices == {"cpu"}, "baselines leave the model where it lay"
        # Plans twice: as a worker whose model lies on the CPU, and as a worker whose model is on
        # the device already.
        sample = task.collate(own, split.examples([0])).inputs
        plan = plan_training(model, spec.train, sample, ranks)
        with placed(model, gpu):
            assert plan_training(model, spec.train, sample, ranks) == plan
        if spec.train.gradient_checkpointing:
            enable_checkpointing(model)
        trainee = Trainee(model, plan, task, own)
        if cut is not None:
            cache = TrunkCache(None, cut, "fp32", (16,), True, False, {})  # type: ignore[arg-type]
            blank = BlankTrunk(cache, task.features(own))
            trainee = Trainee(model, plan, task, own, blank, cut_off(model, cut))
        size = choose_micro_batch_size(spec, trainee, ranks, 20)
        assert size == 8, "the whole batch fits where nothing takes memory"
        with placed(model, gpu):
            batches = BatchPlan(split.lengths, 8, 4, 1)
            phased = PhasedEngine(trainee, spec.train, batches, ranks)
            phased.enter(0)
            setup = TrainContext(
                spec=spec,
                task=task,
                phased=phased,
                train=split,
                validation=split,
                task_setup=own,
                batches=batches,
                terms=task.terms(split.column, split.lengths),
                row_weights=np.ones(20) if spec.train.balance else None,
                trunk=trainee.trunk,
            )
            observer: Any = Watcher(model, 0)
            progress = Progress()
            ahead = batches.batches(0)[:2]
            fed = loop._fed(setup, ahead, 0)
            for batch in ahead:
                asked = (False, False)
                loss, wishes = loop._step(setup, progress, batch, fed, 1e-3, asked, observer)
                assert (wishes, loss > 0) == ([False, False], True)
            trained = [p for p in model.parameters() if p.requires_grad]
            assert trained and all(p.grad.device == gpu for p in trained)
            assert OneRank.waits == ["totals"] * 2, "the host waits once a step"
            with reading_once():
                assert "loss" in loop.evaluate(setup, split, observer)


def main(family: str) -> None:
    unfreeze = CASES[family][1]["unfreeze"]
    for trunk in (False, True):
        for adapts in (False, True):
            if adapts and unfreeze == 0 or trunk and unfreeze == "all":
                continue  # no block to adapt, or no frozen block to cache
            with without_deepspeed():
                run(family, trunk, adapts)
            print(f"{family}, trunk cache: {trunk}, adapters: {adapts}")


if __name__ == "__main__":
    main(sys.argv[1])
