"""Networks whose forward pass does not do the same for inputs of every shape."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn


class Odd(nn.Module):
    """A model whose answer hangs on a number that a record of one pass takes for a constant."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        length = sum(1 for _ in range(input_ids.shape[1]))
        logits = (input_ids * attention_mask).sum(1, keepdim=True).float() / length
        return SimpleNamespace(logits=logits)


class Rigid(nn.Module):
    """A model that takes as many tokens as it was recorded with."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        shape = [int(size) for size in input_ids.shape]
        kept = (input_ids * attention_mask).float()
        return SimpleNamespace(logits=kept.reshape(shape).sum(1))
