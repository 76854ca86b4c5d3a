"""Linear layers whose weights lie in the layout of oneDNN's kernels. From torch's own layout oneDNN
copies a weight in every forward pass, which takes a fifth of the time of a short row.

torch's compiler calls the same operators, for which torch has no public name. Where a version of
torch lacks them, the layers stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import nn

_OPERATORS = ("_linear_pointwise", "_reorder_linear_weight", "_is_mkldnn_bf16_supported")
_PACKED = "packed_weight"
_ROWS = 64
"""Tokens of the passes for which oneDNN chooses the layout; passes of other sizes also run."""


@contextmanager
def packed_linears(model: nn.Module) -> Iterator[None]:
    """Compute the linear layers of a model on a CPU with packed weights inside the block. The
    outputs are the same up to rounding."""
    layers = [module for module in model.modules() if type(module) is nn.Linear]
    packed = [layer for layer in layers if _dtype(layer) in _dtypes()]
    try:
        for layer in packed:
            _pack(layer, _dtype(layer))
        yield
    finally:
        for layer in packed:
            vars(layer).pop("forward", None)
            if hasattr(layer, _PACKED):
                delattr(layer, _PACKED)


def _pack(layer: nn.Linear, dtype: torch.dtype) -> None:
    weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach().to(dtype), _ROWS)
    # torch does not trace such a tensor unless it is a buffer.
    layer.register_buffer(_PACKED, weight, persistent=False)
    bias = None if layer.bias is None else layer.bias.detach().to(dtype)
    # An attribute of the layer hides the method of its class; hooks and weights stay.
    linear = _scripted()
    vars(layer)["forward"] = lambda states: linear(states.to(dtype), getattr(layer, _PACKED), bias)


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


def _dtype(layer: nn.Linear) -> torch.dtype:
    """Return the dtype in which a layer computes."""
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu")
    return layer.weight.dtype


def _dtypes() -> tuple[torch.dtype, ...]:
    """Return the dtypes whose packed weights this machine computes with."""
    if not (torch.backends.mkldnn.is_available() and all(map(_has, _OPERATORS))):
        return ()
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.float32, torch.bfloat16
    return (torch.float32,)


def _has(operator: str) -> bool:
    return hasattr(torch.ops.mkldnn, operator)
