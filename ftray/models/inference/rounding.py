"""Stores weights in a two-byte precision where autocast would round them in each forward pass
anyway."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D


def round_weights(model: nn.Module, dtype: torch.dtype, but: Collection[str]) -> set[str]:
    """Store the weights that `roundable` returns in `dtype`: forward and backward passes compute
    the same bits. Returns their names."""
    rounded = roundable(model, but)
    for parameter in rounded.values():
        parameter.data = parameter.data.to(dtype)
    return set(rounded)


def roundable(model: nn.Module, but: Collection[str]) -> dict[str, nn.Parameter]:
    """Return the parameters that autocast would round in every forward pass, by name, without those
    named in `but`, such as those that train."""
    inside: set[int] = set()
    outside: set[int] = set()
    for module in model.modules():
        own = inside if isinstance(module, (nn.Linear, Conv1D)) else outside
        own.update(map(id, module.parameters(recurse=False)))
    found = inside - outside
    named = model.named_parameters()
    return {
        name: each
        for name, each in named
        if id(each) in found and name not in but and each.is_floating_point()
    }


def place_rounded(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Move `model` to `device`, tensor by tensor, so that neither the device nor the host ever
    holds the whole model in fp32. Weights that autocast would round to `dtype` in every forward
    pass are stored in `dtype`, the rest in fp32: the answers are bitwise the same.

    Every tensor is copied, so that none keeps the model's memory-mapped files in memory.
    """

    def whole(tensor: torch.Tensor) -> torch.Tensor:
        kind = torch.float32 if tensor.is_floating_point() else tensor.dtype
        return tensor.to(device, kind, copy=True)

    for module in model.modules():
        if not isinstance(module, (nn.Linear, Conv1D)):
            module._apply(whole, recurse=False)  # noqa: SLF001 - Module.to for this module alone
            continue
        for name, parameter in list(module.named_parameters(recurse=False)):
            # Make a new parameter: an embedding may be tied to these weights, and is not rounded.
            rounded = parameter.detach().to(device, dtype, copy=True)
            setattr(module, name, nn.Parameter(rounded, requires_grad=False))
