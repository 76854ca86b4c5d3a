"""One data-parallel process: builds the run from its spec and hands it to the loop."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import torch.distributed as dist
from torch import nn

from ftray.cluster import current_group
from ftray.data.batches import BatchPlan
from ftray.data.encode import EncodedDataset
from ftray.errors import FtrayError
from ftray.models.blocks import FreezePlan, plan_freeze
from ftray.models.pretrained import find_pretrained
from ftray.spec.schema import ModelSpec, Spec, micro_batch_size
from ftray.tasks import get_task
from ftray.train import loop, state
from ftray.train.channel import Sender
from ftray.train.deepspeed_config import deepspeed_config
from ftray.train.engine import Engine, TrainedModule, wants_autocast
from ftray.train.process import settle
from ftray.train.progress import Progress
from ftray.train.ranks import Ranks, join_group

if TYPE_CHECKING:
    from transformers import PreTrainedModel


GROUP = "group"
"""Reported beside the metrics: the id of the workers' placement group."""


@dataclass(frozen=True)
class Job:
    """What the driver sends to each worker."""

    spec: Spec
    data: EncodedDataset
    sender: Sender | None = None


def train_worker(config: dict[Any, Any]) -> Any:
    """Ray Train's entry point in each worker; `config` is {"job": Job}.

    An error that another try would not mend is returned, not raised: Ray Train would start the
    workers again for it. All ranks meet such an error alike, so none is left waiting.
    """
    import ray.train

    job = config["job"]
    settle(job.spec)
    checkpoint = ray.train.get_checkpoint()
    try:
        with checkpoint.as_directory() if checkpoint else nullcontext() as folder:
            ranks = join_group()
            base = load_base(job.spec.model, job.spec.task, job.spec.seed, job.data.labels)
            resume = Path(folder) if folder else None
            setup, progress = build(job.spec, job.data, base, ranks, resume)
        _announce(job, setup, progress)
        loop.run(setup, progress, _Reporter(job, setup, progress), _notify(job, ranks))
    except FtrayError as error:
        return error
    return None


@dataclass(frozen=True)
class Base:
    """The pretrained model with its new head, before any training; `pad_id` of its tokenizer."""

    model: PreTrainedModel
    pad_id: int


def load_base(spec: ModelSpec, task: str, seed: int, labels: Sequence[str]) -> Base:
    """The model with its head drawn from `seed`, ready to be trained. Raises ModelError."""
    pretrained = find_pretrained(spec)
    pad_id = pretrained.tokenizer().pad_token_id
    model = pretrained.model(get_task(task), labels, seed)
    model.config.pad_token_id = pad_id
    return Base(model, pad_id)


def build(
    spec: Spec, data: EncodedDataset, base: Base, ranks: Ranks, resume: Path | None
) -> tuple[loop.Setup, Progress]:
    """The run as the spec says, standing where the checkpoint folder `resume` left off.

    `base.model` becomes the trained model.
    """
    task, model = get_task(spec.task), base.model
    train = data.load("train")
    plan = plan_freeze(model, spec.train.unfreeze, task.collate([train.ids_of(0)], base.pad_id))
    progress = Progress()
    if resume is not None:
        state.load_parameters(model, resume)
        progress = Progress(**state.load_progress(resume))
    batches = BatchPlan(
        train.lengths, spec.train.batch_size, micro_batch_size(spec, ranks.world), spec.seed
    )
    engine = _engine(model, plan, spec, batches, ranks)
    if resume is not None:
        state.load_optimizer(engine, resume, progress.step)
    setup = loop.Setup(
        spec=spec,
        task=task,
        engine=engine,
        train=train,
        validation=data.load("validation"),
        labels=data.labels,
        pad_id=base.pad_id,
        batches=batches,
    )
    return setup, progress


def _engine(
    model: nn.Module, plan: FreezePlan, spec: Spec, batches: BatchPlan, ranks: Ranks
) -> Engine:
    module = TrainedModule(model, plan, wants_autocast(spec.train, ranks))
    accumulation = batches.accumulation_steps(ranks.world)
    config = deepspeed_config(spec.train, batches.micro_batch_size, accumulation, ranks.world)
    return Engine(module, spec.train, config, ranks)


def _announce(job: Job, setup: loop.Setup, progress: Progress) -> None:
    nodes = _count_nodes(setup.engine.ranks)
    if setup.engine.ranks.rank or job.sender is None:
        return
    plan = setup.engine.module.plan
    job.sender.send(
        {
            "kind": "start",
            "epoch": progress.epoch,
            "step": progress.step,
            "steps": setup.steps,
            "workers": setup.engine.ranks.world,
            "nodes": nodes,
            "trainable_parameters": plan.trainable_parameters,
            "total_parameters": plan.total_parameters,
            "blocks": plan.blocks,
            "precision": "bf16" if setup.engine.module.autocast else "fp32",
        },
        now=True,
    )


def _count_nodes(ranks: Ranks) -> int:
    """Over how many Ray nodes the ranks are spread."""
    nodes: list[str | None] = [None] * ranks.world
    dist.all_gather_object(nodes, ray.get_runtime_context().get_node_id())
    return len(set(nodes))


def _notify(job: Job, ranks: Ranks) -> loop.Notify:
    def notify(event: dict[str, Any]) -> None:
        if ranks.rank == 0 and job.sender is not None:
            job.sender.send({"kind": "step", **event})

    return notify


class _Reporter:
    """`ray.train.report` with what the driver needs to find the best checkpoint again."""

    def __init__(self, job: Job, setup: loop.Setup, progress: Progress) -> None:
        self.job = job
        self.setup = setup
        self.progress = progress

    def __call__(self, metrics: dict[str, Any], save: loop.Save) -> None:
        import ray.train

        writes = self.setup.engine.ranks.rank == 0
        with tempfile.TemporaryDirectory(prefix="ftray-checkpoint-") as folder:
            save(Path(folder))
            checkpoint = ray.train.Checkpoint.from_directory(folder) if writes else None
            entry = {**metrics, **self.progress.standing(), GROUP: current_group()}
            ray.train.report(entry, checkpoint=checkpoint)
        if writes and self.job.sender is not None:
            self.job.sender.send({"kind": "epoch", **metrics}, now=True)
