"""A DeepSpeed engine around a partly frozen model."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from ftray.cluster.device import visible_gpus
from ftray.models.structure.blocks import FreezePlan
from ftray.models.structure.cut import Replay
from ftray.spec.sections.training import DeepSpeedSpec, TrainSpec
from ftray.train.distributed.context import DistContext
from ftray.train.engine import deepspeed_state
from ftray.train.engine.buffers import MovingBuffers
from ftray.train.engine.deepspeed_config import Config, uses_bf16
from ftray.train.engine.gradients import add_up
from ftray.train.engine.optimizer import AGE, SCALE, adamw


class TrainedModule(nn.Module):
    """The model as DeepSpeed sees it: frozen below, in train mode above, autocast where asked."""

    def __init__(
        self, model: nn.Module, plan: FreezePlan, autocast: bool, replay: Replay | None = None
    ) -> None:
        """replay: that of a `model` whose lowest blocks were cut off."""
        super().__init__()
        self.model = model
        self.replay = replay
        self.plan = plan
        self.autocast = autocast
        plan.apply(model)

    def train(self, mode: bool = True) -> TrainedModule:
        super().train(mode)
        if mode:
            self.plan.set_train_mode(self.model)
        return self

    def forward(self, states: torch.Tensor | None = None, **inputs: torch.Tensor) -> torch.Tensor:
        """Logits of a batch, in the model's own shape. states: (B, T, D), what the lowest blocks
        give, where these were cut off."""
        device = next(iter(inputs.values())).device.type
        if self.replay is not None:
            assert states is not None, "a batch without states for a model that was cut"
            self.replay.feed(states.to(next(self.model.parameters()).dtype))
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self.autocast):
            return self.model(**inputs).logits


class Engine:
    """What the loop asks of DeepSpeed: forward, backward, update, and the trainable parameters."""

    def __init__(
        self,
        module: TrainedModule,
        groups: list[dict[str, Any]],
        spec: TrainSpec,
        config: Config,
        ranks: DistContext,
    ) -> None:
        """groups: those of `parameter_groups`, over the parameters of `module` that train."""
        deepspeed = deepspeed_state.import_deepspeed(ranks.device)
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        module.to(ranks.device)
        self.ranks = ranks
        self.updates = 0
        self._clip = spec.clip
        self._ages = _ages(module.model, groups)
        self._plain = config.get("zero_optimization", {}).get("stage", 0) == 0
        if self._plain:
            # Clipped here: the one norm also tells whether the gradient is finite.
            config = {**config, "gradient_clipping": 0.0}
        self._linear = nn.functional.linear
        self._trained = [p for p in module.model.parameters() if p.requires_grad]
        optimizer = adamw(groups, spec)
        self._deepspeed, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config)
        deepspeed_state.check_optimizer(self._deepspeed)
        # A DeepSpeed JSON may say how ranks add gradients up.
        by_us = ranks.world == 1 or isinstance(spec.deepspeed, DeepSpeedSpec)
        self._adds_up = self._plain and by_us
        if self._adds_up:
            deepspeed_state.turn_off_allreduce(self._deepspeed)
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
        """The DeepSpeed engine; `ftray.train.engine.deepspeed_state` reads it."""
        return self._deepspeed

    def train_mode(self) -> None:
        self._deepspeed.train()

    def eval_mode(self) -> None:
        self._deepspeed.eval()

    def logits(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        device = self.ranks.device
        return self._deepspeed(**{n: t.to(device, non_blocking=True) for n, t in batch.items()})

    def accumulate(self, loss: torch.Tensor) -> None:
        """Add the gradient of `loss`, a share of the mean over the whole batch; every rank,
        accumulation_steps times before each update."""
        if not self._adds_up:
            loss = loss * self.ranks.world  # DeepSpeed averages over the ranks
        with self.buffers.kept() if self._recomputes else nullcontext():
            self._deepspeed.backward(loss, scale_wrt_gas=False)
        if not self._deepspeed.is_gradient_accumulation_boundary():
            self._deepspeed.step()
        elif self._adds_up and self.ranks.world > 1:
            add_up(self._trained)

    def gradient_norm(self) -> torch.Tensor | None:
        """Norm of the gradient of a whole batch, on the device, the same on every rank; None where
        DeepSpeed judges gradients itself."""
        if not self._plain:
            return None
        gradients = []
        for parameter in self._trained:
            if parameter.grad is None:
                # No row went through it. DeepSpeed, too, adds up zeros for it.
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        return nn.utils.get_total_norm(gradients)

    def update(self, learning_rate: float, norm: float | None) -> bool:
        """One optimizer step with the accumulated gradients, whose norm `gradient_norm` gave.
        False, on every rank and with all weights as they were, when a gradient is not finite."""
        for group in self._deepspeed.optimizer.param_groups:
            group["lr"] = learning_rate * group[SCALE]
        finite = norm is None or self._clipped(norm)
        self._deepspeed.step()
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
        """Clip gradients of that norm. One that is not finite is dropped, and the answer is
        False."""
        if not math.isfinite(norm):
            for parameter in self._trained:
                parameter.grad = None
            return False
        if self._clip is not None and norm > self._clip:
            nn.utils.clip_grads_with_norm_(self._trained, self._clip, torch.tensor(norm))
        return True

    def moments(self, parameter: nn.Parameter) -> dict[str, torch.Tensor]:
        """exp_avg and exp_avg_sq of a parameter at stage 0, in place."""
        found: dict[str, torch.Tensor] = self._deepspeed.optimizer.state[parameter]
        return found

    def age(self, name: str) -> int:
        """Updates that a trainable parameter has had, also before this engine."""
        return self._ages[name]

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Name in the model and parameter, of those that train, in the model's order."""
        for name, parameter in self.module.model.named_parameters():
            if parameter.requires_grad:
                yield name, parameter

    def close(self) -> None:
        """Let go of hooks and buffers: a process may build the next engine after this one."""
        deepspeed_state.destroy(self._deepspeed)
        # ZeRO 3 puts one of its own in its place, which rounds otherwise, and leaves it there.
        nn.functional.linear = self._linear


def wants_autocast(spec: TrainSpec, ranks: DistContext) -> bool:
    """Whether forward passes run in bf16: as the spec says, `auto` where every rank's hardware
    computes in it."""
    if uses_bf16(spec) or spec.precision == "fp32":
        return False
    return spec.precision == "bf16" or ranks.all_agree(_has_bf16(ranks.device))


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        # Of GPUs elsewhere it is taken that they have it, as all have since 2020.
        return not visible_gpus() or torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def _ages(model: nn.Module, groups: list[dict[str, Any]]) -> dict[str, int]:
    """The age of each parameter that trains, by name, in the model's order."""
    ages = {id(parameter): group[AGE] for group in groups for parameter in group["params"]}
    return {n: ages[id(p)] for n, p in model.named_parameters() if id(p) in ages}
