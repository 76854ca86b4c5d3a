"""The resume state on disk: world-size independent, without a pickle in it.

A checkpoint folder holds trainable.safetensors (the parameters that train), optimizer.safetensors
(AdamW's two moments of each) and progress.json (where the loop stands). DeepSpeed's accessors give
whole tensors at every ZeRO stage, so that another number of workers can go on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ftray.train.engine import Engine

PARAMETERS = "trainable.safetensors"
_MOMENTS = "optimizer.safetensors"
_PROGRESS = "progress.json"
_KEYS = ("exp_avg", "exp_avg_sq")


def save(engine: Engine, progress: dict[str, Any], folder: Path) -> None:
    """Write the state into `folder` on rank 0. Every rank must call it: gathering is collective."""
    parameters: dict[str, torch.Tensor] = {}
    moments: dict[str, torch.Tensor] = {}
    writes = engine.ranks.rank == 0
    _link_moments(engine)
    for name, parameter in engine.trainable():
        value = _get(engine, parameter)
        if writes:
            parameters[name] = value.detach().to("cpu", copy=True).contiguous()
        for key in _KEYS:
            moment = _get(engine, parameter, key)
            if writes:
                moments[f"{name}/{key}"] = moment.detach().to("cpu", copy=True).contiguous()
    if writes:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(parameters, folder / PARAMETERS)
        save_file(moments, folder / _MOMENTS)
        (folder / _PROGRESS).write_text(json.dumps(progress))


def load_parameters(model: nn.Module, folder: Path) -> None:
    """Put the trained values into `model`; before an engine is built around it."""
    values = load_file(folder / PARAMETERS)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in values.items():
            parameters[name].copy_(value)


def load_progress(folder: Path) -> dict[str, Any]:
    return json.loads((folder / _PROGRESS).read_text())


def load_optimizer(engine: Engine, folder: Path, step: int) -> None:
    """Put the moments, and the values that they belong to, into a new engine around the loaded
    parameters; `step` is the number of updates made."""
    values = load_file(folder / PARAMETERS)
    moments = load_file(folder / _MOMENTS)
    inner = _torch_optimizer(engine)
    for tensor in _stepped_tensors(engine):
        inner.state[tensor] = {
            "step": torch.tensor(float(step), device=tensor.device),
            **{key: torch.zeros_like(tensor) for key in _KEYS},
        }
    _link_moments(engine)
    for name, parameter in engine.trainable():
        # Where DeepSpeed trains in bf16 it made its fp32 copies from values already rounded.
        _set(engine, parameter, values[name])
        for key in _KEYS:
            _set(engine, parameter, moments[f"{name}/{key}"], key)


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


def _stepped_tensors(engine: Engine) -> list[torch.Tensor]:
    """The tensors that torch's AdamW holds state for: this rank's shards, or the parameters."""
    for shards in ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat"):
        if hasattr(engine.zero, shards):
            return list(getattr(engine.zero, shards))
    return [parameter for group in engine.zero.param_groups for parameter in group["params"]]


def _get(engine: Engine, parameter: nn.Parameter, key: str | None = None) -> torch.Tensor:
    """The whole parameter in full precision, or the whole moment `key` of it."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    if not _is_sharded(parameter):
        return parameter if key is None else _torch_optimizer(engine).state[parameter][key]
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
