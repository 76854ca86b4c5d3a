"""Plans which parameters of a model train in each phase, before the first engine is built."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from ftray.errors import ModelError, SpecError
from ftray.models.structure.blocks import FreezePlan, layer_depths, plan_freeze
from ftray.models.structure.cut import Replay, frozen_blocks
from ftray.models.structure.groups import count_blocks
from ftray.models.structure.placing import without_numbers
from ftray.spec.sections.training import TrainSpec
from ftray.tasks import Task
from ftray.tasks.base import TaskSetup
from ftray.train.distributed.context import DistContext
from ftray.train.engine.deepspeed import wants_autocast
from ftray.train.engine.lora import plan_adapters
from ftray.train.engine.phases import Phase, layer_decay, plan_phases
from ftray.train.trunk_cache.cache import Trunk


@dataclass(frozen=True)
class TrainingPlan:
    """The plan of a whole run. phases: the phases; parts: the freeze plan of each phase; depths:
    the number of layers that each parameter lies below the head, empty without layer-wise decay of
    the learning rate; frozen: the number of lowest blocks that never train; autocast: whether
    forward passes run under bf16 autocast."""

    phases: tuple[Phase, ...]
    parts: tuple[FreezePlan, ...]
    depths: Mapping[str, int]
    frozen: int
    autocast: bool

    @property
    def largest(self) -> FreezePlan:
        """Return the freeze plan with the most trainable parameters."""
        return max(self.parts, key=lambda part: part.trainable_parameters)

    @property
    def trainable(self) -> set[str]:
        """Return the names of all parameters that train in any phase."""
        return {name for part in self.parts for name in part.trainable}


@dataclass(frozen=True)
class Trainee:
    """A model that is ready for its first engine. LoRA adapters are injected. If `trunk` is given,
    the model lacks the lowest blocks, and `replay` feeds it the cached hidden states of these
    blocks."""

    model: nn.Module
    plan: TrainingPlan
    task: Task
    setup: TaskSetup
    trunk: Trunk | None = None
    replay: Replay | None = None


def plan_training(
    model: nn.Module, spec: TrainSpec, inputs: Mapping[str, torch.Tensor], ranks: DistContext
) -> TrainingPlan:
    """Plan the training of an uncut model, into which LoRA adapters are already injected if the
    spec uses LoRA. The plan uses tensors without data, so it is cheap for a model of any size on
    any device.

    inputs: one small batch. Every rank must call this function. Raises ModelError
    or SpecError if the model lacks something that the spec names.
    """
    _check_groups(model, spec)
    autocast = wants_autocast(spec, ranks)
    return without_numbers(model, inputs, partial(_plan, spec, autocast))


def _plan(
    spec: TrainSpec, autocast: bool, model: nn.Module, inputs: Mapping[str, torch.Tensor]
) -> TrainingPlan:
    phases = plan_phases(spec, count_blocks(model))
    plan = plan_adapters if spec.lora else plan_freeze
    parts = tuple(plan(model, phase.selection, inputs) for phase in phases)
    if not all(part.trainable for part in parts):
        problem = "nothing trains: the head has no weights beside those of the embeddings"
        raise ModelError.of("train.unfreeze", "head", problem, "set train.unfreeze to 1 or more")
    return TrainingPlan(
        phases,
        parts,
        layer_depths(model, inputs) if layer_decay(spec) < 1 else {},
        min(frozen_blocks(model, part) for part in parts),
        autocast,
    )


def _check_groups(model: nn.Module, spec: TrainSpec) -> None:
    names = [name for name, _ in model.named_parameters()]
    for index, group in enumerate(spec.groups):
        if not any(re.search(group.match, name) for name in names):
            raise SpecError.of(
                f"train.groups.{index}.match",
                group.match,
                "matches no parameter of the model",
                f"names are like {names[-1]} or {names[len(names) // 2]}",
            )
