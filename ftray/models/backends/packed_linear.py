"""Linear layers in bf16 whose weights lie in the layout of oneDNN's kernels. From torch's own
layout oneDNN copies a weight in every forward pass, which takes a fifth of the time of a short row.

torch's compiler calls the same operators, for which torch has no public name. Where a version of
torch lacks them, the layers stay as they are. So do layers in fp32, which torch computes with
another library: oneDNN's packed fp32 operator leaves memory behind for each new number of tokens,
700 MB for a model of 90 MB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import nn

_OPERATORS = ("_linear_pointwise", "_reorder_linear_weight", "_is_mkldnn_bf16_supported")
_DTYPE = torch.bfloat16
_PACKED = "packed_weight"
_ROWS = 64
"""Tokens of the passes for which oneDNN chooses the layout; passes of other sizes also run."""


@contextmanager
def packed_linears(model: nn.Module) -> Iterator[None]:
    """Compute the linear layers of a model with packed weights inside the block, where autocast has
    them compute in bf16 on a CPU that can. The outputs are the same up to rounding."""
    layers = [module for module in model.modules() if type(module) is nn.Linear]
    packed = layers if _is_of_use() else []
    try:
        for layer in packed:
            _pack(layer)
        yield
    finally:
        for layer in packed:
            vars(layer).pop("forward", None)
            if hasattr(layer, _PACKED):
                delattr(layer, _PACKED)


def _pack(layer: nn.Linear) -> None:
    weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach().to(_DTYPE), _ROWS)
    # torch does not trace such a tensor unless it is a buffer.
    layer.register_buffer(_PACKED, weight, persistent=False)
    bias = None if layer.bias is None else layer.bias.detach().to(_DTYPE)
    # An attribute of the layer hides the method of its class; hooks and weights stay.
    linear = _scripted()
    vars(layer)["forward"] = lambda states: linear(states.to(_DTYPE), getattr(layer, _PACKED), bias)


@cache
def _scripted() -> Callable[..., torch.Tensor]:
    """Return oneDNN's operator as a script: torch traces the call of a script, but not the
    operator's list of numbers or None."""

    def linear(
        states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            states, weight, bias, "none", [], ""
        )
        return found

    scripted: Callable[..., torch.Tensor] = torch.jit.script(linear)
    return scripted


def _is_of_use() -> bool:
    """Return whether linear layers compute in bf16 now, and this machine has the operators."""
    if not (torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is _DTYPE):
        return False
    known = torch.backends.mkldnn.is_available() and all(map(_has, _OPERATORS))
    return known and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _has(operator: str) -> bool:
    return hasattr(torch.ops.mkldnn, operator)
