"""What a DeepSpeed engine holds: parameters and moments, read and written whole at any ZeRO stage.

DeepSpeed keeps some of it under names that it does not document. Only this file uses such names,
each in a function of its own and without a default: a release that lacks one raises AttributeError
here. `pyproject.toml` bounds DeepSpeed's version for that reason.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ftray.errors import SpecError

_OPTIMIZERS = {
    1: "DeepSpeedZeroOptimizer",
    2: "DeepSpeedZeroOptimizer",
    3: "DeepSpeedZeroOptimizer_Stage3",
}
"""DeepSpeed's optimizer class at each ZeRO stage that shards."""


def import_deepspeed(device: torch.device) -> Any:
    """The module `deepspeed` for engines on `device`, imported without what ftray never uses."""
    # DeepSpeed takes any GPU that it sees for its own, and of several the one of LOCAL_RANK.
    os.environ["DS_ACCELERATOR"] = device.type
    if device.index is not None:
        os.environ["LOCAL_RANK"] = str(device.index)
    # DeepSpeed's autotuner imports MLflow where MLflow is installed: that takes a second.
    missing: Any = None
    without = {"mlflow": missing} if "mlflow" not in sys.modules else {}
    sys.modules.update(without)
    try:
        import deepspeed
    finally:
        for name in without:
            del sys.modules[name]
    # An operator for inference on CPUs that would be compiled here and never called.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def check_optimizer(engine: Any) -> None:
    """Raise SpecError where a DeepSpeed JSON has made DeepSpeed choose an optimizer whose state the
    functions below cannot read, and so could neither checkpoint nor resume."""
    wanted = _OPTIMIZERS.get(stage(engine))
    found = type(engine.optimizer).__name__
    if found != wanted and not (wanted is None and is_torch_optimizer(engine.optimizer)):
        raise SpecError.of(
            "train.deepspeed",
            found,
            f"DeepSpeed chose this optimizer for ZeRO stage {stage(engine)}, and ftray cannot "
            "checkpoint its state",
            f"leave out what makes DeepSpeed choose another one than {wanted or 'AdamW'}: "
            "data_types, zenflow, super_offload",
        )


def is_torch_optimizer(optimizer: Any) -> bool:
    """Whether an optimizer is torch's own, with no DeepSpeed optimizer around it."""
    return type(optimizer).__module__.startswith("torch.optim")


def stage(engine: Any) -> int:
    """The ZeRO stage that an engine runs at."""
    return int(engine.zero_optimization_stage())


def turn_off_allreduce(engine: Any) -> None:
    """Have an engine of stage 0 leave gradients as the backward pass makes them."""
    assert engine.enable_backward_allreduce is True
    engine.enable_backward_allreduce = False


def overflowed(engine: Any) -> bool:
    """Whether the last step was left out, on all ranks, for a gradient that is not finite."""
    return stage(engine) > 0 and bool(engine.optimizer.overflow)


def torch_optimizer(engine: Any) -> torch.optim.Optimizer:
    """The optimizer that ftray gave to the engine."""
    return engine.optimizer.optimizer if stage(engine) else engine.optimizer


def shards(engine: Any) -> list[tuple[torch.Tensor, int]]:
    """The flat fp32 tensors that the optimizer of a sharding stage updates on this rank, each with
    the index of its parameter group."""
    zero = engine.optimizer
    if stage(engine) == 3:
        groups = zero.sub_group_to_group_id
        return [
            (flat, groups[index]) for index, flat in enumerate(zero.fp32_partitioned_groups_flat)
        ]
    return [(flat, index) for index, flat in enumerate(zero.single_partition_of_fp32_groups)]


def link_moments(engine: Any) -> None:
    """Tell DeepSpeed's accessors where ZeRO 1 and 2 keep each parameter's moments.

    DeepSpeed itself does so once, after the first step of the first parameter group, and so misses
    the other groups.
    """
    from deepspeed.utils import lazy_init_hp_params_optimizer_state

    if stage(engine) not in (1, 2):
        return
    zero = engine.optimizer
    for lows, flat in zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True):
        lazy_init_hp_params_optimizer_state(lows, flat, torch_optimizer(engine).state)


def get_whole(parameter: nn.Parameter, moment: str | None = None) -> torch.Tensor:
    """The whole fp32 values of a parameter of a sharding stage, or the whole moment of that name.
    Every rank must call it."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    if moment is None:
        return safe_get_full_fp32_param(parameter)
    return safe_get_full_optimizer_state(parameter, moment)


def set_whole(
    engine: Any, parameter: Any, value: torch.Tensor, rank: int, moment: str | None = None
) -> None:
    """The opposite of `get_whole`; `value` is whole, on this rank's device."""
    from deepspeed.utils import (
        safe_set_full_fp32_param,
        safe_set_full_optimizer_state,
        safe_set_local_fp32_param,
        safe_set_local_optimizer_state,
    )

    key = () if moment is None else (moment,)
    if stage(engine) < 3:
        put = safe_set_full_optimizer_state if key else safe_set_full_fp32_param
        put(parameter, value, *key)
        return
    # The last rank's part is padded; the padding is nobody's weight and stays zero.
    size = parameter.ds_tensor.numel()
    parts = -(-value.numel() // size)
    flat = torch.zeros(size * max(parts, rank + 1), device=value.device, dtype=value.dtype)
    flat[: value.numel()] = value.flatten()
    put = safe_set_local_optimizer_state if key else safe_set_local_fp32_param
    put(parameter, flat.narrow(0, size * rank, size), *key)


def destroy(engine: Any) -> None:
    """Let go of an engine's hooks and buffers: a process may build the next engine after it."""
    engine.destroy()
    # When the engine is collected it would call this once more, and take the parameters' links to
    # the next engine's state with it.
    engine.optimizer = None


def is_partitioned(parameter: nn.Parameter) -> bool:
    """Whether ZeRO 3 has left an empty tensor in place of the parameter's values."""
    return hasattr(parameter, "ds_id")


def make_whole(model: nn.Module) -> None:
    """Put whole parameters in place of those that a ZeRO 3 engine has partitioned."""
    import deepspeed

    parted = [p for p in model.parameters() if is_partitioned(p)]
    if not parted:
        return
    with deepspeed.zero.GatheredParameters(parted):
        whole = {id(p): nn.Parameter(p.detach().clone(), p.requires_grad) for p in parted}
    for module in model.modules():
        # DeepSpeed has put a dictionary of its own in place of torch's.
        module._parameters = _replaced(module._parameters.items(), whole)  # noqa: SLF001


def _replaced(named: Iterable[tuple[str, Any]], whole: dict[int, Any]) -> dict[str, Any]:
    return {name: whole.get(id(parameter), parameter) for name, parameter in named}
