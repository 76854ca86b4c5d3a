"""The micro batch that fits on a GPU: decided apart from how it is found out."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ftray.errors import ClusterError
from ftray.models.blocks import count_blocks, plan_freeze
from ftray.spec.schema import Spec, micro_batch_size
from ftray.tasks import get_task
from ftray.train.engine import TrainedModule, wants_autocast
from ftray.train.memory import Layout, reserve
from ftray.train.phases import plan_phases
from ftray.train.ranks import Ranks


def largest_that_fits(start: int, fits: Callable[[int], bool]) -> int:
    """`start`, else the first of its halves, rounded up, that fits; 0 where not even 1 does.
    `fits` is asked about each size once, largest first."""
    size = start
    while not fits(size):
        if size == 1:
            return 0
        size = -(-size // 2)
    return size


def choose_micro_batch_size(
    spec: Spec, model: nn.Module, ranks: Ranks, pad_id: int, longest: int, before: int = 0
) -> int:
    """Rows of one forward pass: as set; `auto` on a CPU by rule, and on a GPU the largest even
    division of the batch that fits there with rows of `longest` tokens.

    before: the size that a resumed run had; it is kept where it fits.

    The size changes how a batch is cut and nothing else: what its rows add up to is the same but
    for rounding, and for which units a dropout happens to drop. Every rank must call it, and all
    get the same answer. Raises ClusterError where not even one row fits.
    """
    if spec.train.micro_batch_size != "auto" or ranks.device.type != "cuda":
        # An elastic run cuts its batches the same way with any number of workers.
        return micro_batch_size(spec, spec.scale.most_workers)
    start = before or -(-spec.train.batch_size // ranks.world)
    probe = _Probe(spec, model, ranks, pad_id, longest)
    size = min(ranks.gather(largest_that_fits(start, probe.fits)))
    probe.close()
    if size == 0:
        raise ClusterError.of(
            "train.micro_batch_size",
            "auto",
            f"not even one row of {longest} tokens fits on {torch.cuda.get_device_name()}",
            "set train.gradient_checkpointing, a higher train.deepspeed.stage or its offload, or "
            "lower data.max_length or train.unfreeze",
        )
    return size


class _Probe:
    """Tries forward and backward passes on the device, beside room for the optimizer's state."""

    def __init__(
        self, spec: Spec, model: nn.Module, ranks: Ranks, pad_id: int, longest: int
    ) -> None:
        self._spec, self._ranks = spec, ranks
        self._pad_id, self._longest = pad_id, longest
        self._task = get_task(spec.task)
        sample = self._task.collate([[pad_id] * min(6, longest)], pad_id)
        phases = plan_phases(spec.train, count_blocks(model))
        plans = [plan_freeze(model, phase.selection, sample) for phase in phases]
        plan = max(plans, key=lambda plan: plan.trainable_parameters)
        self._module = TrainedModule(model, plan, wants_autocast(spec.train, ranks))
        self._module.to(ranks.device).train()
        largest = max(parameter.numel() for parameter in model.parameters())
        self._sizes = (plan.total_parameters, plan.trainable_parameters, largest)

    def fits(self, rows: int) -> bool:
        try:
            self._step(rows)
        except torch.cuda.OutOfMemoryError:
            return False
        finally:
            self._module.zero_grad(set_to_none=True)
            # What an error's traceback holds on to goes first.
            gc.collect()
            torch.cuda.empty_cache()
        return True

    def close(self) -> None:
        """Leave the model as it was."""
        self._module.requires_grad_(True)
        self._module.to("cpu").eval()

    def _step(self, rows: int) -> None:
        layout = Layout.of(self._spec.train, rows, self._ranks.world)
        held = torch.empty(
            reserve(*self._sizes, layout), dtype=torch.uint8, device=self._ranks.device
        )
        ids = [[self._pad_id] * self._longest] * rows
        inputs: Mapping[str, Any] = self._task.collate(ids, self._pad_id)
        inputs = {name: tensor.to(self._ranks.device) for name, tensor in inputs.items()}
        self._task.costliest_loss(self._module(**inputs)).backward()
        del held
