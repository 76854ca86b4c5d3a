"""Adds up gradients over all ranks where every rank keeps whole ones (ZeRO stage 0).

DeepSpeed copies all gradients into one tensor and back. Here large ones are added up where they
are, and small ones go together: an exchange takes as long as some 100 KB take.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn

_LARGE = 1 << 16
"""Elements from which on a gradient is exchanged by itself."""


def add_up(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its sum over all ranks. Every rank calls it with the same
    parameters; one without a gradient counts as zeros."""
    small: dict[torch.dtype, list[torch.Tensor]] = defaultdict(list)
    under_way = []
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradient = parameter.grad
        # autograd lays gradients out as their parameters are: as on the other ranks.
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
