"""What of a model trains in each phase of a run: found out before anything is built."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from ftray.errors import SpecError
from ftray.models.structure.blocks import FreezePlan, count_blocks, layer_depths, plan_freeze
from ftray.models.structure.cut import Replay, frozen_blocks
from ftray.models.structure.placing import without_numbers
from ftray.spec.sections.training import TrainSpec
from ftray.train.distributed.context import DistContext
from ftray.train.engine.deepspeed import wants_autocast
from ftray.train.engine.lora import plan_adapters
from ftray.train.engine.phases import Phase, layer_decay, plan_phases
from ftray.train.trunk_cache.cache import Trunk


@dataclass(frozen=True)
class TrainingPlan:
    """phases, and of each what trains in it; depths: how far below the head each parameter lies,
    empty where all learn alike; frozen: how many of the lowest blocks never train; autocast:
    whether forward passes run in bf16."""

    phases: tuple[Phase, ...]
    parts: tuple[FreezePlan, ...]
    depths: Mapping[str, int]
    frozen: int
    autocast: bool

    @property
    def largest(self) -> FreezePlan:
        """The part with the most parameters that train."""
        return max(self.parts, key=lambda part: part.trainable_parameters)

    @property
    def trainable(self) -> set[str]:
        """Names of all parameters that train at some time."""
        return {name for part in self.parts for name in part.trainable}


@dataclass(frozen=True)
class Trainee:
    """A model that is to be trained, before its first engine is built: with adapters, without the
    blocks that `trunk` stands for (then `replay` feeds it)."""

    model: nn.Module
    plan: TrainingPlan
    pad_id: int
    trunk: Trunk | None = None
    replay: Replay | None = None


def plan_training(
    model: nn.Module, spec: TrainSpec, inputs: Mapping[str, torch.Tensor], ranks: DistContext
) -> TrainingPlan:
    """The plan for a whole model, with its adapters injected where the spec asks for LoRA. It is
    made without numbers: it costs nothing however large the model is, and wherever it lies.

    inputs: one small batch, (B, T) tensors. Every rank must call it. Raises ModelError or
    SpecError when the model has not what the spec names.
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
