"""The resume state: world-size independent, without a pickle in it.

In a folder it is trainable.safetensors (all parameters that training has changed, in full
precision), optimizer.safetensors (of each parameter that trains, AdamW's two moments and the
number of updates they stand for) and, of a model that has such, buffers.safetensors (the running
statistics and other buffers that training has changed). DeepSpeed's accessors give whole tensors at
every ZeRO stage, so that another number of workers, or another stage, can go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ftray.train.engine import deepspeed_state
from ftray.train.engine.deepspeed import Engine
from ftray.train.engine.optimizer import AGE

PARAMETERS = "trainable.safetensors"
MOMENTS = "optimizer.safetensors"
BUFFERS = "buffers.safetensors"
_KEYS = ("exp_avg", "exp_avg_sq")
_UPDATES = "updates"


@dataclass(frozen=True)
class State:
    """Whole tensors on the CPU. moments: NAME/exp_avg and NAME/exp_avg_sq of what trains;
    ages: the updates that each of those has had; buffers: those that training changes."""

    parameters: dict[str, torch.Tensor] = field(default_factory=dict)
    moments: dict[str, torch.Tensor] = field(default_factory=dict)
    ages: dict[str, int] = field(default_factory=dict)
    buffers: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, torch.Tensor]:
        """Parameters and buffers: what the model computes with."""
        return {**self.parameters, **self.buffers}


def take(engine: Engine, keeps: bool) -> State:
    """A copy of the engine's state where `keeps`, else an empty one. Every rank must call it, as
    gathering is collective."""
    state = State(buffers=engine.buffers.values() if keeps else {})
    deepspeed_state.link_moments(engine.deepspeed)
    for name, parameter in engine.trainable():
        value = _get(engine, parameter)
        if keeps:
            state.parameters[name] = _on_cpu(value)
            state.ages[name] = engine.age(name)
        if not engine.age(name):
            continue  # no moments yet
        for key in _KEYS:
            moment = _get(engine, parameter, key)
            if keeps:
                state.moments[f"{name}/{key}"] = _on_cpu(moment)
    return state


def put(engine: Engine, state: State) -> None:
    """Put a state into a new engine whose ages are those of the state: the values, also where
    DeepSpeed made its own from rounded ones, and the moments; what has none starts at zero."""
    inner = deepspeed_state.torch_optimizer(engine.deepspeed)
    for tensor, age in _stepped_tensors(engine):
        moments = inner.state.get(tensor) or {key: torch.zeros_like(tensor) for key in _KEYS}
        step = torch.tensor(float(age), device=tensor.device)
        inner.state[tensor] = {**moments, "step": step}
    deepspeed_state.link_moments(engine.deepspeed)
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
    if state.buffers:
        save_file(state.buffers, folder / BUFFERS)


def read(folder: Path) -> State:
    moments = load_file(folder / MOMENTS)
    counts = [name for name in moments if name.endswith(f"/{_UPDATES}")]
    ages = {name.removesuffix(f"/{_UPDATES}"): int(moments.pop(name)) for name in counts}
    return State(load_file(folder / PARAMETERS), moments, ages, _read_buffers(folder))


def load_values(model: nn.Module, values: Mapping[str, torch.Tensor]) -> None:
    """Put trained parameters and buffers into `model`, around which there is no engine yet."""
    places = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with torch.no_grad():
        for name, value in values.items():
            places[name].copy_(value)


def trained_values(folder: Path) -> dict[str, torch.Tensor]:
    """The parameters and buffers in a state's folder."""
    return {**load_file(folder / PARAMETERS), **_read_buffers(folder)}


def _read_buffers(folder: Path) -> dict[str, torch.Tensor]:
    file = folder / BUFFERS
    return load_file(file) if file.is_file() else {}


def _on_cpu(value: torch.Tensor) -> torch.Tensor:
    return value.detach().to("cpu", copy=True).contiguous()


def _stepped_tensors(engine: Engine) -> list[tuple[torch.Tensor, int]]:
    """The tensors that torch's AdamW holds state for (this rank's shards, or the parameters), and
    the age of each."""
    groups = engine.deepspeed.optimizer.param_groups
    if engine.stage:
        shards = deepspeed_state.shards(engine.deepspeed)
        return [(shard, groups[index][AGE]) for shard, index in shards]
    return [(parameter, group[AGE]) for group in groups for parameter in group["params"]]


def _get(engine: Engine, parameter: nn.Parameter, moment: str | None = None) -> torch.Tensor:
    """The whole parameter in full precision, or the whole moment of that name."""
    if engine.stage:
        return deepspeed_state.get_whole(parameter, moment)
    return parameter if moment is None else engine.moments(parameter)[moment]


def _set(
    engine: Engine, parameter: nn.Parameter, value: torch.Tensor, moment: str | None = None
) -> None:
    """The opposite of `_get`."""
    value = value.to(engine.ranks.device)
    if engine.stage:
        deepspeed_state.set_whole(engine.deepspeed, parameter, value, engine.ranks.rank, moment)
        return
    with torch.no_grad():
        _get(engine, parameter, moment).copy_(value)
