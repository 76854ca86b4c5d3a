"""Moves a model to its device in a two-byte precision, tensor by tensor, so that neither the device
nor the host ever holds the whole model in fp32."""

from __future__ import annotations

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D


def place_rounded(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Move `model` to `device`. Weights that autocast would round to `dtype` in every forward pass
    are stored in `dtype`, the rest in fp32: the answers are bitwise the same.

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
