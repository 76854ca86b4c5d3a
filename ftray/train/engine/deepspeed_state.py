"""Reads and writes a DeepSpeed engine's unsharded parameters and moments at any ZeRO stage.

DeepSpeed keeps parts of this state under undocumented names. Only this file uses such names, each
in a function of its own and without a default, so a DeepSpeed release that lacks one raises
AttributeError here. `pyproject.toml` bounds DeepSpeed's version for this reason.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
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
    """Import the module `deepspeed` for engines on `device`, without parts that ftray never
    uses."""
    # By default DeepSpeed uses any visible GPU; of several GPUs it uses number LOCAL_RANK.
    os.environ["DS_ACCELERATOR"] = device.type
    if device.index is not None:
        os.environ["LOCAL_RANK"] = str(device.index)
    # DeepSpeed's autotuner imports MLflow where MLflow is installed, which takes a second.
    missing: Any = None
    without = {"mlflow": missing} if "mlflow" not in sys.modules else {}
    sys.modules.update(without)
    try:
        import deepspeed
    finally:
        for name in without:
            del sys.modules[name]
    # DeepSpeed would compile this operator for CPU inference, which training never calls.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def check_optimizer(engine: Any) -> None:
    """Raise SpecError if a DeepSpeed JSON made DeepSpeed choose an optimizer whose state the
    functions below cannot read, so that ftray could neither checkpoint nor resume the run."""
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
    """Return whether an optimizer is torch's own, without a DeepSpeed optimizer around it."""
    return type(optimizer).__module__.startswith("torch.optim")


def stage(engine: Any) -> int:
    """Return the ZeRO stage of an engine."""
    return int(engine.zero_optimization_stage())


def turn_off_allreduce(engine: Any) -> None:
    """Stop a stage 0 engine from reducing gradients after the backward pass."""
    assert engine.enable_backward_allreduce is True
    engine.enable_backward_allreduce = False


def time_allreduce(engine: Any, timed: Callable[[], AbstractContextManager[None]]) -> None:
    """Run what the engine reduces at the end of a backward pass in a context of `timed`."""
    reduce = engine.allreduce_gradients

    def allreduce_gradients(*args: Any, **options: Any) -> None:
        with timed():
            reduce(*args, **options)

    engine.allreduce_gradients = allreduce_gradients


def overflowed(engine: Any) -> bool:
    """Return whether DeepSpeed skipped the last step on all ranks because a gradient was not
    finite. Always False at stage 0."""
    return stage(engine) > 0 and bool(engine.optimizer.overflow)


def torch_optimizer(engine: Any) -> torch.optim.Optimizer:
    """Return the torch optimizer that ftray gave to the engine."""
    return engine.optimizer.optimizer if stage(engine) else engine.optimizer


def shards(engine: Any) -> list[tuple[torch.Tensor, int]]:
    """Return this rank's shards at stages 1 to 3: (flat fp32 tensor that the optimizer updates,
    index of its parameter group)."""
    zero = engine.optimizer
    if stage(engine) == 3:
        groups = zero.sub_group_to_group_id
        return [
            (flat, groups[index]) for index, flat in enumerate(zero.fp32_partitioned_groups_flat)
        ]
    return [(flat, index) for index, flat in enumerate(zero.single_partition_of_fp32_groups)]


def link_moments(engine: Any) -> None:
    """Link each parameter to its moments at ZeRO 1 and 2, for DeepSpeed's accessors.

    DeepSpeed itself links moments only once, after the first step of the first parameter group, and
    so misses the other groups.
    """
    from deepspeed.utils import lazy_init_hp_params_optimizer_state

    if stage(engine) not in (1, 2):
        return
    zero = engine.optimizer
    for lows, flat in zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True):
        lazy_init_hp_params_optimizer_state(lows, flat, torch_optimizer(engine).state)


def get_whole(parameter: nn.Parameter, moment: str | None = None) -> torch.Tensor:
    """Gather the unsharded fp32 values of a parameter at stages 1 to 3, or its moment of the given
    name. Every rank must call this function."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    if moment is None:
        return safe_get_full_fp32_param(parameter)
    return safe_get_full_optimizer_state(parameter, moment)


def set_whole(
    engine: Any, parameter: Any, value: torch.Tensor, rank: int, moment: str | None = None
) -> None:
    """Set the values or the moment of a parameter, as the inverse of `get_whole`. `value` is the
    unsharded tensor on this rank's device."""
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
    # All shards have the same size, so the last one has padding, which stays zero.
    size = parameter.ds_tensor.numel()
    parts = -(-value.numel() // size)
    flat = torch.zeros(size * max(parts, rank + 1), device=value.device, dtype=value.dtype)
    flat[: value.numel()] = value.flatten()
    put = safe_set_local_optimizer_state if key else safe_set_local_fp32_param
    put(parameter, flat.narrow(0, size * rank, size), *key)


def destroy(engine: Any) -> None:
    """Release an engine's hooks and buffers, so that this process can build another engine."""
    engine.destroy()
    if stage(engine) == 3:
        _release(engine.module)
    vars(engine).pop("allreduce_gradients", None)  # it refers to the engine
    # The engine's destructor calls `destroy` again. A second call would delete the links from the
    # parameters to the state of the next engine.
    engine.optimizer = None


def _release(module: nn.Module) -> None:
    """Drop the two references that DeepSpeed's modules keep to a destroyed stage 3 engine. They
    would hold the shards and the moments in memory until the process ends."""
    from deepspeed.runtime.zero import parameter_offload
    from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator

    modules = parameter_offload.FWD_MODULE_STACK
    modules[:] = [other for other in modules if other is not module]
    cached = PartitionedParameterCoordinator._PartitionedParameterCoordinator__params_to_release
    (cell,) = cached.__closure__  # of a function that DeepSpeed puts around the cache
    cell.cell_contents.cache_clear()


def is_partitioned(parameter: nn.Parameter) -> bool:
    """Return whether ZeRO 3 sharded the parameter, which leaves an empty tensor as its values."""
    return hasattr(parameter, "ds_id")


def make_whole(model: nn.Module) -> None:
    """Replace the parameters that a ZeRO 3 engine sharded by unsharded ones."""
    import deepspeed

    parted = [p for p in model.parameters() if is_partitioned(p)]
    if not parted:
        return
    with deepspeed.zero.GatheredParameters(parted):
        whole = {id(p): nn.Parameter(p.detach().clone(), p.requires_grad) for p in parted}
    for module in model.modules():
        # DeepSpeed replaced torch's dictionary of parameters by a class of its own.
        module._parameters = _replaced(module._parameters.items(), whole)  # noqa: SLF001


def _replaced(named: Iterable[tuple[str, Any]], whole: dict[int, Any]) -> dict[str, Any]:
    return {name: whole.get(id(parameter), parameter) for name, parameter in named}
