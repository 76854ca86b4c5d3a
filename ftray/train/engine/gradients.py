"""All-reduces gradients at ZeRO stage 0, where every rank keeps all of them.

DeepSpeed copies all gradients into one tensor and back. This module all-reduces large gradients in
place and small ones together in one tensor, as each all-reduce has a fixed cost, about that of the
transfer of 100 KB.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn

_LARGE = 1 << 16
"""Elements of the smallest gradient that is all-reduced alone, in place."""


def add_up(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its sum over all ranks. Every rank must call this function with the
    same parameters; a parameter without a gradient counts as zeros."""
    small: dict[torch.dtype, list[torch.Tensor]] = defaultdict(list)
    under_way = []
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradient = parameter.grad
        # autograd gives a gradient the memory layout of its parameter, so the layout is the same on
        # all ranks.
        if gradient.numel() >= _LARGE and parameter.is_contiguous():
            under_way.append(dist.all_reduce(gradient, async_op=True))
        else:
            small[gradient.dtype].append(gradient)
    for gradients in small.values():
        together = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(together)
        parts = together.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
    for work in under_way:
        work.wait()
