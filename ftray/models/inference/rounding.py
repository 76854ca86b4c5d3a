"""Puts a model on its device in a precision of two bytes, tensor by tensor: neither the device nor
the host ever holds all of it in fp32."""

from __future__ import annotations

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D


def place_rounded(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Move `model` to `device`. What autocast would round to `dtype` in every forward pass is kept
    in it, the rest in fp32: the answers are the same, bit by bit.

    All is copied, so that nothing keeps the files in memory that the model was loaded from.
    """

    def whole(tensor: torch.Tensor) -> torch.Tensor:
        kind = torch.float32 if tensor.is_floating_point() else tensor.dtype
        return tensor.to(device, kind, copy=True)

    for module in model.modules():
        if not isinstance(module, (nn.Linear, Conv1D)):
            module._apply(whole, recurse=False)  # noqa: SLF001 - Module.to for this module alone
            continue
        for name, parameter in list(module.named_parameters(recurse=False)):
            # Another parameter: an embedding may have the same weights, and is not rounded.
            rounded = parameter.detach().to(device, dtype, copy=True)
            setattr(module, name, nn.Parameter(rounded, requires_grad=False))
