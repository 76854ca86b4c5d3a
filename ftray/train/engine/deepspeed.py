"""Wraps a partly frozen model in a DeepSpeed engine."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from ftray.cluster.device import has_bf16
from ftray.models.structure.blocks import FreezePlan
from ftray.models.structure.cut import Replay
from ftray.spec.sections.training import DeepSpeedSpec, TrainSpec
from ftray.tasks import Task
from ftray.tasks.features import Batch
from ftray.train.distributed.context import DistContext
from ftray.train.engine import deepspeed_state
from ftray.train.engine.buffers import MovingBuffers
from ftray.train.engine.deepspeed_config import Config, uses_bf16
from ftray.train.engine.optimizer import AGE, SCALE, adamw
from ftray.train.engine.partition import partition
from ftray.train.engine.shared_state import open_shared
from ftray.train.engine.step_timer import StepTimer
from ftray.train.engine.unsharded import OwnState, UnshardedState


class TrainedModule(nn.Module):
    """The module that DeepSpeed wraps: freezes the lower part of the model, keeps the upper part in
    train mode, and applies autocast where wanted."""

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        plan: FreezePlan,
        autocast: bool,
        replay: Replay | None = None,
    ) -> None:
        """replay: feeds cached hidden states into a `model` whose lowest blocks were cut off."""
        super().__init__()
        self.model = model
        self.task = task
        self.replay = replay
        self.plan = plan
        self.autocast = autocast
        plan.apply(model)

    def train(self, mode: bool = True) -> TrainedModule:
        super().train(mode)
        if mode:
            self.plan.set_train_mode(self.model)
        return self

    def forward(
        self,
        states: torch.Tensor | None = None,
        targets: dict[str, torch.Tensor] | None = None,
        smoothing: float = 0.0,
        **inputs: torch.Tensor,
    ) -> Any:
        """Return the loss of each example, (B,) float32; without `targets`, the model's outputs by
        name. states: (B, ...), the hidden states that the lowest blocks would compute, for a model
        without these blocks."""
        device = next(iter(inputs.values())).device.type
        if self.replay is not None:
            assert states is not None, "a batch without states for a model that was cut"
            self.replay.feed(states.to(next(self.model.parameters()).dtype))
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self.autocast):
            outputs = self.task.forward(self.model, inputs)
        if targets is None:
            return outputs
        return self.task.losses(outputs, Batch(inputs, targets), smoothing)


class Engine:
    """The loop's interface to DeepSpeed: forward pass, backward pass, optimizer step, and access to
    the trainable parameters."""

    def __init__(
        self,
        module: TrainedModule,
        groups: list[dict[str, Any]],
        spec: TrainSpec,
        config: Config,
        ranks: DistContext,
        timer: StepTimer,
        rounded: Collection[str] = (),
    ) -> None:
        """groups: the result of `parameter_groups` for the trainable parameters of `module`;
        timer: times what the engine adds up over the ranks; rounded: names of the model's weights
        that stay in the dtype that they have."""
        deepspeed = deepspeed_state.import_deepspeed(ranks.device)
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        self._linear = nn.functional.linear
        zero = config.get("zero_optimization", {}).get("stage", 0)
        if zero == 3:
            low = config.get("bf16", {}).get("enabled") is True
            dtype = torch.bfloat16 if low else torch.float32
            partition(module.model, config, ranks.device, dtype, rounded)
        else:
            module.to(ranks.device)
        self.ranks = ranks
        self.timer = timer
        self.updates = 0
        self._clip = spec.clip
        self._ages = _ages(module.model, groups)
        self._trained = [p for p in module.model.parameters() if p.requires_grad]
        # A user's DeepSpeed JSON may configure the all-reduce of gradients, so DeepSpeed does it.
        by_us = ranks.world == 1 or isinstance(spec.deepspeed, DeepSpeedSpec)
        self._adds_up = zero == 0 and by_us
        self._state: UnshardedState | None = None
        if zero == 0:
            # At stage 0 this class clips gradients itself: it needs their norm anyway, to check
            # that they are finite.
            config = {**config, "gradient_clipping": 0.0}
            shared = open_shared(ranks, self._trained) if self._adds_up else None
            self._state = shared or OwnState(module.model)
            groups = self._state.owned(groups)
        optimizer = adamw(groups, spec)
        if self._state is not None:
            self._state.attach(optimizer)
        self._deepspeed, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config)
        deepspeed_state.check_optimizer(self._deepspeed)
        if self._adds_up:
            deepspeed_state.turn_off_allreduce(self._deepspeed)
        else:
            deepspeed_state.time_allreduce(self._deepspeed, lambda: timer("reduce"))
        self._deepspeed.train()
        self.buffers = MovingBuffers(module.model, ranks, module.plan.frozen_modules)
        self._recomputes = spec.gradient_checkpointing

    @property
    def module(self) -> TrainedModule:
        return self._deepspeed.module

    @property
    def stage(self) -> int:
        """The ZeRO stage."""
        return deepspeed_state.stage(self._deepspeed)

    @property
    def deepspeed(self) -> Any:
        """The DeepSpeed engine, for the functions of `ftray.train.engine.deepspeed_state`."""
        return self._deepspeed

    def train_mode(self) -> None:
        self._deepspeed.train()

    def eval_mode(self) -> None:
        self._deepspeed.eval()

    def outputs(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return the model's outputs for a batch on the device."""
        found: dict[str, torch.Tensor] = self._deepspeed(**batch.inputs)
        return found

    def losses(self, batch: Batch, smoothing: float = 0.0) -> torch.Tensor:
        """Return the loss of each example of a batch on the device, (B,) float32."""
        found: torch.Tensor = self._deepspeed(
            **batch.inputs, targets=batch.targets, smoothing=smoothing
        )
        return found

    def accumulate(self, loss: torch.Tensor) -> None:
        """Run the backward pass of one micro-batch and accumulate its gradients.

        `loss` is this micro-batch's part of the mean over the global batch. Every rank must call
        this method accumulation_steps times before each update.
        """
        if not self._adds_up:
            loss = loss * self.ranks.world  # DeepSpeed averages over the ranks
        with self.buffers.kept() if self._recomputes else nullcontext():
            self._deepspeed.backward(loss, scale_wrt_gas=False)
        if not self._deepspeed.is_gradient_accumulation_boundary():
            self._deepspeed.step()
        elif self._state is not None and self._adds_up and self.ranks.world > 1:
            with self.timer("reduce"):
                self._state.add_up()

    def gradient_norm(self) -> torch.Tensor | None:
        """Return the norm of the global batch's gradient: a tensor on the device, the same on every
        rank. Returns None at stages 1 to 3, where DeepSpeed clips and checks gradients itself."""
        return None if self._state is None else self._state.norm()

    def update(self, learning_rate: float, norm: float | None) -> bool:
        """Run one optimizer step with the accumulated gradients; `norm` is the result of
        `gradient_norm`. If a gradient is not finite, the weights stay unchanged and this method
        returns False on every rank."""
        for group in self._deepspeed.optimizer.param_groups:
            group["lr"] = learning_rate * group[SCALE]
        finite = norm is None or self._clipped(norm)
        self._deepspeed.step()
        if self._state is not None:
            self._state.settle()
        applied = finite and not deepspeed_state.overflowed(self._deepspeed)
        if applied:
            self.buffers.agree()
        else:
            self.buffers.restore()
        self.updates += applied
        for name in self._ages:
            self._ages[name] += applied
        return applied

    def _clipped(self, norm: float) -> bool:
        """Clip the gradients, whose norm is `norm`. If `norm` is not finite, drop the gradients and
        return False."""
        if not math.isfinite(norm):
            for parameter in self._trained:
                parameter.grad = None
            return False
        if self._clip is not None and norm > self._clip:
            nn.utils.clip_grads_with_norm_(self._trained, self._clip, torch.tensor(norm))
        return True

    def moments(self, parameter: nn.Parameter) -> dict[str, torch.Tensor]:
        """Return AdamW's exp_avg and exp_avg_sq of a parameter at stage 0, not as copies."""
        assert self._state is not None, "stages 1 to 3 shard the moments"
        return self._state.moments(parameter)

    def age(self, name: str) -> int:
        """Return the number of updates of a trainable parameter, in this engine and in earlier
        ones."""
        return self._ages[name]

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield (name in the model, parameter) of the trainable parameters, in the model's
        order."""
        for name, parameter in self.module.model.named_parameters():
            if parameter.requires_grad:
                yield name, parameter

    def close(self) -> None:
        """Release DeepSpeed's hooks and buffers, so that this process can build another engine."""
        deepspeed_state.destroy(self._deepspeed)
        if self._state is not None:
            self._state.close()
        # ZeRO 3 replaces torch's `linear` by a function that rounds differently, and never restores
        # the original.
        nn.functional.linear = self._linear


def wants_autocast(spec: TrainSpec, ranks: DistContext) -> bool:
    """Return whether forward passes run under bf16 autocast: as train.precision says, and for
    `auto` where the hardware of every rank supports bf16. False where DeepSpeed itself keeps the
    weights in bf16."""
    if uses_bf16(spec) or spec.precision == "fp32":
        return False
    return spec.precision == "bf16" or ranks.all_agree(has_bf16(ranks.device))


def rounds_weights(spec: TrainSpec, autocast: bool) -> bool:
    """Return whether matrices that never train are kept in the precision of autocast."""
    # DoRA computes with the norms of the weights, in fp32.
    reads_weights = spec.lora is not None and spec.lora.options.use_dora
    return autocast and spec.weights == "auto" and not reads_weights


def _ages(model: nn.Module, groups: list[dict[str, Any]]) -> dict[str, int]:
    """Return the age (number of updates) of each trainable parameter by name, in the model's
    order."""
    ages = {id(parameter): group[AGE] for group in groups for parameter in group["params"]}
    return {n: ages[id(p)] for n, p in model.named_parameters() if id(p) in ages}
