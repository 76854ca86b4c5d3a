"""The engine of each phase: another one wherever something else trains.

DeepSpeed sees what trains when it is initialized and never again: unfreezing in place is silently
without effect. So each phase has an engine of its own, built around the frozen model, and the
parameters that train in both phases keep their moments and their number of updates.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import nn

from ftray.data.batches import BatchPlan
from ftray.errors import RunFailed, SpecError
from ftray.models.blocks import FreezePlan, count_blocks, layer_depths, plan_freeze
from ftray.models.trunk import Cut, Replay, cut_off, frozen_blocks
from ftray.models.twin import own
from ftray.spec.training import TrainSpec
from ftray.train import deepspeed_state, state
from ftray.train.checkpointing import enable_checkpointing
from ftray.train.deepspeed_config import deepspeed_config, require_disk
from ftray.train.engine import Engine, TrainedModule, wants_autocast
from ftray.train.lora import plan_adapters
from ftray.train.optimizer import parameter_groups
from ftray.train.phases import Phase, index_at, layer_decay, plan_phases
from ftray.train.ranks import Ranks
from ftray.train.state import State


class PhasedEngine:
    """A model through the phases of its training. Nothing is built before `enter`."""

    def __init__(
        self,
        model: nn.Module,
        spec: TrainSpec,
        batches: BatchPlan,
        ranks: Ranks,
        inputs: Mapping[str, torch.Tensor],
    ) -> None:
        """model: with its adapters injected, where the spec asks for LoRA. inputs: one small
        batch, to find out what lies where in the model. Raises ModelError or SpecError when the
        model has not what the spec names."""
        _check_groups(model, spec)
        self.model = model
        self.ranks = ranks
        self.phases = plan_phases(spec, count_blocks(model))
        self._spec = spec
        self.autocast = wants_autocast(spec, ranks)
        # In a model that ZeRO 3 has cut to pieces there is nothing to be found out any more.
        plan = plan_adapters if spec.lora else plan_freeze
        self._plans = [plan(model, phase.selection, inputs) for phase in self.phases]
        own(model, {name for plan in self._plans for name in plan.trainable})
        self._depths = layer_depths(model, inputs) if layer_decay(spec) < 1 else {}
        accumulation = batches.accumulation_steps(ranks.world)
        if spec.gradient_checkpointing:
            enable_checkpointing(model)
        self._config = deepspeed_config(spec, batches.micro_batch_size, accumulation, ranks.world)
        require_disk(self._config, ranks)
        self.frozen = min(frozen_blocks(model, plan) for plan in self._plans)
        self._replay: Replay | None = None
        self._index = -1
        self._engine: Engine | None = None
        self._left = State()
        self._unfrozen: dict[str, torch.Tensor] = {}

    @property
    def engine(self) -> Engine:
        assert self._engine is not None, "no phase was entered"
        return self._engine

    @property
    def plan(self) -> FreezePlan:
        return self._plans[self._index]

    @property
    def phase(self) -> Phase:
        return self.phases[self._index]

    def cut(self, cut: Cut) -> None:
        """Train without the lowest blocks, which stay frozen: batches bring states along. Before
        the first phase."""
        assert self._engine is None and cut.blocks <= self.frozen
        self._replay = cut_off(self.model, cut)

    def enter(self, epoch: int, resumed: State | None = None) -> bool:
        """Make sure that the engine is that of `epoch`; `resumed` is the state to go on from at
        first. True when the engine is a new one."""
        index = index_at(self.phases, epoch)
        if index == self._index:
            return False
        before = resumed
        if self._engine is not None:
            before = self._take(keeps=True)
            self._leave()
        self._index = index
        self._build(before or State())
        return True

    def snapshot(self, keeps: bool) -> State:
        """The state of all that has been trained, where `keeps`. Every rank must call it."""
        return self._take(keeps)

    def check_moved(self) -> None:
        """After the first update of a phase: raise RunFailed when none of the parameters that
        began to train in it has changed."""
        if not self._unfrozen:
            return
        before, self._unfrozen = self._unfrozen, {}
        now = self._take(keeps=True).parameters
        if all(torch.equal(now[name], value) for name, value in before.items()):
            raise RunFailed.of(
                "train.unfreeze",
                None,
                f"{len(before)} parameters were unfrozen and did not move, {next(iter(before))} "
                "among them",
                "report this with the spec: it is a fault of ftray or DeepSpeed",
            )

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()

    def _take(self, keeps: bool) -> State:
        taken = state.take(self.engine, keeps)
        return State(
            {**self._left.parameters, **taken.parameters},
            taken.moments,
            taken.ages,
            {**self._left.buffers, **taken.buffers},
        )

    def _leave(self) -> None:
        self.engine.close()
        self._engine = None
        deepspeed_state.make_whole(self.model)

    def _build(self, before: State) -> None:
        state.load_values(self.model, before.values)
        trainable = set(self.plan.trainable)
        module = TrainedModule(self.model, self.plan, self.autocast, self._replay)
        groups = parameter_groups(
            ((n, p) for n, p in self.model.named_parameters() if n in trainable),
            self._spec,
            self._depths,
            before.ages,
            self.phase.rate,
        )
        first = self._index == 0 or not before.parameters
        self._unfrozen = {} if first else self._values(trainable - before.parameters.keys())
        left = {n: v for n, v in before.parameters.items() if n not in trainable}
        self._left = State(left, buffers=before.buffers)
        self._engine = Engine(module, groups, self._spec, self._config, self.ranks)
        if before.parameters:
            state.put(self._engine, before)

    def _values(self, names: set[str]) -> dict[str, torch.Tensor]:
        parameters = self.model.named_parameters()
        return {n: p.detach().cpu().float().clone() for n, p in parameters if n in names}


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
