"""Finds the answers of a model in what its forward pass returns, whatever the model's task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_ANSWER = "logits"
"""End of the names of a model's answers in transformers' outputs: logits, start_logits, ..."""


def answers_in(output: Any) -> list[torch.Tensor]:
    """Return the tensors of a forward pass that hold the model's answers: those named as logits, or
    all floating point tensors where none is."""
    import torch

    told: Mapping[str, Any] = output if isinstance(output, Mapping) else vars(output)
    tensors = {n: t for n, t in told.items() if isinstance(t, torch.Tensor) and n != "loss"}
    named = [tensor for name, tensor in tensors.items() if name.endswith(_ANSWER)]
    return named or [tensor for tensor in tensors.values() if tensor.is_floating_point()]


def total_of(output: Any) -> torch.Tensor:
    """Return the sum of all answers, a scalar that depends on every one of them."""
    total: torch.Tensor = sum(answer.float().sum() for answer in answers_in(output))  # type: ignore[assignment]
    return total
