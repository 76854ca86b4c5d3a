"""The resume state: world-size independent, without a pickle in it.

In a folder it is trainable.safetensors (all parameters that training has changed, in full
precision) and optimizer.safetensors (of each parameter that trains, AdamW's two moments and the
number of updates they stand for). DeepSpeed's accessors give whole tensors at every ZeRO stage, so
that another number of workers, or another stage, can go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ftray.train.engine import Engine
from ftray.train.optimizer import AGE

PARAMETERS = "trainable.safetensors"
MOMENTS = "optimizer.safetensors"
_KEYS = ("exp_avg", "exp_avg_sq")
_UPDATES = "updates"


@dataclass(frozen=True)
class State:
    """Whole tensors on the CPU. moments: NAME/exp_avg and NAME/exp_avg_sq of what trains;
    ages: the updates that each of those has had."""

    parameters: dict[str, torch.Tensor] = field(default_factory=dict)
    moments: dict[str, torch.Tensor] = field(default_factory=dict)
    ages: dict[str, int] = field(default_factory=dict)


def take(engine: Engine, keeps: bool) -> State:
    """A copy of the engine's state where `keeps`, else an empty one. Every rank must call it, as
    gathering is collective."""
    state = State()
    _link_moments(engine)
    for name, parameter in engine.trainable():
        value = _get(engine, parameter)
        if keeps:
            state.parameters[name] = _on_cpu(value)
            state.ages[name] = engine.age(name)
        if not engine.updates and not engine.age(name):
            continue  # no moments yet
        for key in _KEYS:
            moment = _get(engine, parameter, key)
            if keeps:
                state.moments[f"{name}/{key}"] = _on_cpu(moment)
    return state


def put(engine: Engine, state: State) -> None:
    """Put a state into a new engine whose ages are those of the state: the values, also where
    DeepSpeed made its own from rounded ones, and the moments; what has none starts at zero."""
    inner = _torch_optimizer(engine)
    for tensor, age in _stepped_tensors(engine):
        moments = inner.state.get(tensor) or {key: torch.zeros_like(tensor) for key in _KEYS}
        step = torch.tensor(float(age), device=tensor.device)
        inner.state[tensor] = {**moments, "step": step}
    _link_moments(engine)
    for name, parameter in engine.trainable():
        if name in state.parameters:
            _set(engine, parameter, state.parameters[name])
        for key in _KEYS:
            if f"{name}/{key}" in state.moments:
                _set(engine, parameter, state.moments[f"{name}/{key}"], key)


def write(state: State, folder: Path) -> None:
    """Write a whole state into an existing folder."""
    ages = {f"{name}/{_UPDATES}": torch.tensor(age) for name, age in state.ages.items()}
    save_file(state.parameters, folder / PARAMETERS)
    save_file({**state.moments, **ages}, folder / MOMENTS)


def read(folder: Path) -> State:
    moments = load_file(folder / MOMENTS)
    counts = [name for name in moments if name.endswith(f"/{_UPDATES}")]
    ages = {name.removesuffix(f"/{_UPDATES}"): int(moments.pop(name)) for name in counts}
    return State(load_file(folder / PARAMETERS), moments, ages)


def load_parameters(model: nn.Module, values: Mapping[str, torch.Tensor]) -> None:
    """Put trained values into `model`, which no engine has been built around yet."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in values.items():
            parameters[name].copy_(value)


def trained_values(folder: Path) -> dict[str, torch.Tensor]:
    """The parameters in a state's folder."""
    return load_file(folder / PARAMETERS)


def _on_cpu(value: torch.Tensor) -> torch.Tensor:
    return value.detach().to("cpu", copy=True).contiguous()


def _link_moments(engine: Engine) -> None:
    """Tell DeepSpeed's accessors where ZeRO 1 and 2 keep each parameter's moments.

    DeepSpeed itself does so once, after the first step of the first parameter group, and so misses
    the other groups.
    """
    from deepspeed.utils import lazy_init_hp_params_optimizer_state

    for lows, flat in zip(
        getattr(engine.zero, "bit16_groups", ()),
        getattr(engine.zero, "single_partition_of_fp32_groups", ()),
        strict=True,
    ):
        lazy_init_hp_params_optimizer_state(lows, flat, engine.zero.optimizer.state)


def _stepped_tensors(engine: Engine) -> list[tuple[torch.Tensor, int]]:
    """The tensors that torch's AdamW holds state for (this rank's shards, or the parameters), and
    the age of each."""
    zero = engine.zero
    ages = [group[AGE] for group in zero.param_groups]
    if hasattr(zero, "single_partition_of_fp32_groups"):
        return list(zip(zero.single_partition_of_fp32_groups, ages, strict=True))
    if hasattr(zero, "fp32_partitioned_groups_flat"):
        return [
            (shard, ages[zero.sub_group_to_group_id[index]])
            for index, shard in enumerate(zero.fp32_partitioned_groups_flat)
        ]
    return [(parameter, group[AGE]) for group in zero.param_groups for parameter in group["params"]]


def _get(engine: Engine, parameter: nn.Parameter, key: str | None = None) -> torch.Tensor:
    """The whole parameter in full precision, or the whole moment `key` of it."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    if not _is_sharded(parameter):
        return parameter if key is None else engine.moments(parameter)[key]
    if key is None:
        return safe_get_full_fp32_param(parameter)
    return safe_get_full_optimizer_state(parameter, key)


def _set(engine: Engine, parameter: Any, value: torch.Tensor, key: str | None = None) -> None:
    """The opposite of `_get`."""
    from deepspeed.utils import (
        safe_set_full_fp32_param,
        safe_set_full_optimizer_state,
        safe_set_local_fp32_param,
        safe_set_local_optimizer_state,
    )

    value = value.to(engine.ranks.device)
    moment = () if key is None else (key,)
    if hasattr(parameter, "ds_id"):
        # Stage 3 pads the last rank's part; the padding is nobody's weight and stays zero.
        size = parameter.ds_tensor.numel()
        flat = torch.zeros(size * engine.ranks.world, device=value.device, dtype=value.dtype)
        flat[: value.numel()] = value.flatten()
        mine = flat.narrow(0, size * engine.ranks.rank, size)
        put = safe_set_local_optimizer_state if moment else safe_set_local_fp32_param
        put(parameter, mine, *moment)
    elif _is_sharded(parameter):
        put = safe_set_full_optimizer_state if moment else safe_set_full_fp32_param
        put(parameter, value, *moment)
    else:
        with torch.no_grad():
            _get(engine, parameter, key).copy_(value)


def _is_sharded(parameter: nn.Parameter) -> bool:
    """Whether DeepSpeed's accessors know the parameter: at every stage but 0."""
    return hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping")


def _torch_optimizer(engine: Engine) -> Any:
    return getattr(engine.zero, "optimizer", engine.zero)
