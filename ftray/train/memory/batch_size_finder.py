"""Chooses the largest micro-batch that fits on a GPU.

The decision (`largest_that_fits`) is separate from the measurement on the device (`_Probe`).
"""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch

from ftray.cluster.device import is_out_of_memory
from ftray.errors import ClusterError
from ftray.models.structure.placing import placed
from ftray.spec.schema import Spec, micro_batch_size
from ftray.train.distributed.context import DistContext
from ftray.train.engine.deepspeed import TrainedModule
from ftray.train.engine.deepspeed_config import uses_bf16
from ftray.train.memory.estimate import Layout, reserve
from ftray.train.plan import Trainee
from ftray.train.trunk_cache.cache import STATES


def largest_that_fits(start: int, fits: Callable[[int], bool]) -> int:
    """Halve `start`, rounding up, until `fits(size)` is true; returns the size, or 0 where not even
    1 fits. This function calls `fits` once for each size, largest first."""
    size = start
    while not fits(size):
        if size == 1:
            return 0
        size = -(-size // 2)
    return size


def choose_micro_batch_size(
    spec: Spec, trainee: Trainee, ranks: DistContext, longest: int, before: int = 0
) -> int:
    """Choose the micro-batch size, the rows of one forward pass.

    A number in the spec is used as it is. `auto` follows a fixed rule on a CPU; on a GPU it is the
    largest even division of the batch that fits on the device with rows of `longest` tokens.

    before: the size that a resumed run had; it is kept if it fits.

    The size only changes how a batch is split into micro-batches. The gradient of the batch stays
    the same except for rounding and for the units that dropout drops. Every rank must call this
    function, and all ranks get the same size; the model is left unchanged. Raises ClusterError
    where not even one row fits.
    """
    if spec.train.micro_batch_size != "auto" or ranks.device.type == "cpu":
        # `most_workers` makes an elastic run split its batches alike with any number of workers.
        return micro_batch_size(spec, spec.scale.most_workers)
    start = before or -(-spec.train.batch_size // ranks.world)
    size = min(ranks.gather(_largest(spec, trainee, ranks, longest, start)))
    if size == 0:
        raise ClusterError.of(
            "train.micro_batch_size",
            "auto",
            f"not even one row of {longest} tokens fits on {_name(ranks.device)}",
            "set train.gradient_checkpointing, a higher train.deepspeed.stage or its offload, or "
            "lower data.max_length or train.unfreeze",
        )
    return size


def _largest(spec: Spec, trainee: Trainee, ranks: DistContext, longest: int, start: int) -> int:
    """Return the largest size that fits on this rank's device; 0 where not even the model fits."""
    dtype = torch.bfloat16 if uses_bf16(spec.train) else torch.float32
    try:
        with placed(trainee.model, ranks.device, dtype):
            return largest_that_fits(start, _Probe(spec, trainee, ranks, longest).fits)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return 0
    finally:
        _release()


class _Probe:
    """Tries the forward and backward passes of one step on the device, while it reserves the memory
    that DeepSpeed keeps. The probe uses the phase with the most trainable parameters, and the run's
    LoRA adapters, gradient checkpointing, precision and trunk cut."""

    def __init__(self, spec: Spec, trainee: Trainee, ranks: DistContext, longest: int) -> None:
        plan = trainee.plan
        self._spec, self._trainee, self._ranks, self._longest = spec, trainee, ranks, longest
        self._module = TrainedModule(
            trainee.model, trainee.task, plan.largest, plan.autocast, trainee.replay
        )
        self._module.train()
        largest = max(parameter.numel() for parameter in trainee.model.parameters())
        trained = plan.largest.trainable_parameters
        self._sizes = (plan.largest.total_parameters, trained, largest)

    def fits(self, rows: int) -> bool:
        try:
            self._step(rows)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return False
        finally:
            self._module.zero_grad(set_to_none=True)
            _release()
        return True

    def _step(self, rows: int) -> None:
        layout = Layout.of(self._spec.train, rows, self._ranks.world)
        held = torch.empty(
            reserve(*self._sizes, layout), dtype=torch.uint8, device=self._ranks.device
        )
        inputs = self._inputs(rows)
        # With gradient accumulation the second pass needs most memory: the gradients of the first
        # pass lie beside its activations. From stage 2 on DeepSpeed frees them after each pass.
        passes = 2 if layout.accumulation > 1 and layout.stage < 2 else 1
        for _ in range(passes):
            self._trainee.task.probe_loss(self._module(**inputs)).backward()
        del held

    def _inputs(self, rows: int) -> dict[str, torch.Tensor]:
        task, setup, trunk = self._trainee.task, self._trainee.setup, self._trainee.trunk
        examples = [task.dummy(setup, self._longest)] * rows
        if trunk is not None:
            examples = trunk.shortened(examples)
        batch = task.collate(setup, examples)
        if trunk is not None:
            batch.inputs[STATES] = trunk.blank(rows, self._longest)
        return batch.to(self._ranks.device).inputs


def _release() -> None:
    """Collect garbage first, as an error's traceback may hold tensors, then return the unused
    memory of torch's allocator to the device."""
    gc.collect()
    torch.cuda.empty_cache()


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
