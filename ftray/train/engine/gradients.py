"""All-reduces gradients at ZeRO stage 0, where every rank keeps all of them.

DeepSpeed copies all gradients into one tensor and back. This module all-reduces large gradients in
place and small ones together in one tensor, as each all-reduce has a fixed cost, about that of the
transfer of 100 KB. Of a table of embeddings it all-reduces the rows that the batch looked up: half
of a small encoder's weights are such a table, and a batch looks up few of its rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable

import torch
import torch.distributed as dist
from torch import nn

_LARGE = 1 << 16
"""Elements of the smallest gradient that is all-reduced alone, in place."""

_TABLE = 1 << 20
"""Elements of the smallest table of which single rows are all-reduced."""


def tables(model: nn.Module) -> set[torch.Tensor]:
    """Return the tables of embeddings on the CPU that train and that no other module shares. On a
    GPU the host would have to wait to learn how many rows were looked up."""
    held = [parameter for _, parameter in model.named_parameters(remove_duplicate=False)]
    found = {m.weight for m in model.modules() if isinstance(m, nn.Embedding)}
    return {
        table
        for table in found
        if table.requires_grad
        and table.device.type == "cpu"
        and table.numel() >= _TABLE
        and sum(parameter is table for parameter in held) == 1
    }


def add_up(
    parameters: Iterable[nn.Parameter], tables: Collection[torch.Tensor] = frozenset()
) -> None:
    """Replace each gradient by its sum over all ranks. Every rank must call this function with the
    same parameters; a parameter without a gradient counts as zeros. tables: those of `parameters`
    that most batches have few rows of."""
    small: dict[torch.dtype, list[torch.Tensor]] = defaultdict(list)
    under_way = []
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradient = parameter.grad
        if parameter in tables:
            _add_up_rows(gradient)
            continue
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


def _add_up_rows(gradient: torch.Tensor) -> None:
    """All-reduce the rows of `gradient`, (rows, size), that are not zero on every rank."""
    # Of torch's operators, these two find a row that is not zero fastest; NaN is not zero either.
    used = ((gradient.amax(1) != 0) | (gradient.amin(1) != 0)).to(torch.uint8)
    dist.all_reduce(used, dist.ReduceOp.MAX)
    rows = used.nonzero().squeeze(1)
    found = gradient[rows]
    dist.all_reduce(found)
    gradient[rows] = found
