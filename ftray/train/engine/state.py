"""The training state in a checkpoint: unsharded tensors, stored without pickle.

A state's folder has these files:
trainable*.safetensors all parameters that training has changed, in fp32
optimizer*.safetensors AdamW's two moments of each trainable parameter, and its number of updates
buffers*.safetensors   the buffers that training has changed, such as running statistics; absent
                       for a model without any
One rank writes all of them, or each rank its own.
DeepSpeed's accessors return unsharded tensors at every ZeRO stage, so a run can resume with another
number of workers or another stage.
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

PARAMETERS, MOMENTS, BUFFERS = "trainable", "optimizer", "buffers"
_KEYS = ("exp_avg", "exp_avg_sq")
_UPDATES = "updates"
_FORMAT = ".safetensors"


@dataclass(frozen=True)
class State:
    """The training state as unsharded tensors on the CPU. moments: NAME/exp_avg and NAME/exp_avg_sq
    of each trainable parameter; ages: the number of updates of each trainable parameter; buffers:
    the buffers that training changes."""

    parameters: dict[str, torch.Tensor] = field(default_factory=dict)
    moments: dict[str, torch.Tensor] = field(default_factory=dict)
    ages: dict[str, int] = field(default_factory=dict)
    buffers: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, torch.Tensor]:
        """Return parameters and buffers: the tensors that the forward pass uses."""
        return {**self.parameters, **self.buffers}


@dataclass(frozen=True)
class Share:
    """The parameters whose state a rank keeps: each `count`-th one, from number `part` on; none
    where the count is 0."""

    part: int
    count: int


ALL, NONE = Share(0, 1), Share(0, 0)


def take(engine: Engine, share: Share) -> State:
    """Copy this rank's share of the engine's state to the CPU. Every rank must call this function,
    as DeepSpeed gathers shards collectively."""
    first = share.count > 0 and share.part == 0
    state = State(buffers=engine.buffers.values() if first else {})
    deepspeed_state.link_moments(engine.deepspeed)
    for number, (name, parameter) in enumerate(engine.trainable()):
        keeps = share.count > 0 and number % share.count == share.part
        value = _get(engine, parameter)
        if keeps:
            state.parameters[name] = _on_cpu(value)
            state.ages[name] = engine.age(name)
        if not engine.age(name):
            continue  # AdamW has no moments before the first update
        for key in _KEYS:
            moment = _get(engine, parameter, key)
            if keeps:
                state.moments[f"{name}/{key}"] = _on_cpu(moment)
    return state


def put(engine: Engine, state: State) -> None:
    """Load `state` into a new engine, which was built with the state's ages.

    This sets the parameters, including fp32 master weights that DeepSpeed made from rounded bf16
    values, and the moments. A parameter without moments in `state` starts with zero moments.
    """
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


def write(state: State, folder: Path, suffix: str = "") -> None:
    """Write `state` to files in an existing folder. suffix: distinguishes the files of this rank
    from those of others."""
    ages = {f"{name}/{_UPDATES}": torch.tensor(age) for name, age in state.ages.items()}
    save_file(state.parameters, folder / f"{PARAMETERS}{suffix}{_FORMAT}")
    save_file({**state.moments, **ages}, folder / f"{MOMENTS}{suffix}{_FORMAT}")
    if state.buffers:
        save_file(state.buffers, folder / f"{BUFFERS}{suffix}{_FORMAT}")


def read(folder: Path) -> State:
    """Read the whole state. Its tensors map the files: they take memory once they are read."""
    moments = _read(folder, MOMENTS)
    counts = [name for name in moments if name.endswith(f"/{_UPDATES}")]
    ages = {name.removesuffix(f"/{_UPDATES}"): int(moments.pop(name)) for name in counts}
    return State(_read(folder, PARAMETERS), moments, ages, _read(folder, BUFFERS))


def load_values(model: nn.Module, values: Mapping[str, torch.Tensor]) -> None:
    """Give `model` trained parameters and buffers, before an engine wraps it. The parameters become
    the given tensors, in their dtype, without a copy."""
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    for name, value in values.items():
        if name in parameters:
            parameters[name].data = value
        else:
            buffers[name].copy_(value)


def trained_values(folder: Path) -> dict[str, torch.Tensor]:
    """Read the parameters and buffers from a state's folder."""
    return {**_read(folder, PARAMETERS), **_read(folder, BUFFERS)}


def _read(folder: Path, kind: str) -> dict[str, torch.Tensor]:
    """Read the tensors of all ranks' files of one kind."""
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob(f"{kind}*{_FORMAT}")):
        found |= load_file(file)
    return found


def _on_cpu(value: torch.Tensor) -> torch.Tensor:
    return value.detach().to("cpu", copy=True).contiguous()


def _stepped_tensors(engine: Engine) -> list[tuple[torch.Tensor, int]]:
    """Return (tensor, age) of each tensor that torch's AdamW keeps state for: this rank's shards at
    stages 1 to 3, else the parameters."""
    groups = engine.deepspeed.optimizer.param_groups
    if engine.stage:
        shards = deepspeed_state.shards(engine.deepspeed)
        return [(shard, groups[index][AGE]) for shard, index in shards]
    return [(parameter, group[AGE]) for group in groups for parameter in group["params"]]


def _get(engine: Engine, parameter: nn.Parameter, moment: str | None = None) -> torch.Tensor:
    """Return the unsharded parameter in fp32, or its unsharded moment of the given name."""
    if engine.stage:
        return deepspeed_state.get_whole(parameter, moment)
    return parameter if moment is None else engine.moments(parameter)[moment]


def _set(
    engine: Engine, parameter: nn.Parameter, value: torch.Tensor, moment: str | None = None
) -> None:
    """Set the parameter, or its moment of the given name, to an unsharded `value`."""
    value = value.to(engine.ranks.device)
    if engine.stage:
        deepspeed_state.set_whole(engine.deepspeed, parameter, value, engine.ranks.rank, moment)
        return
    with torch.no_grad():
        _get(engine, parameter, moment).copy_(value)
