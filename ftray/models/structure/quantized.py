"""Keeps the linear layers of a model's blocks in four bits a weight, for adapters to train beside
them (QLoRA, Dettmers et al. 2023; NF4 in blocks of 64 weights, by bitsandbytes).

Such a layer computes with the values that its four bits stand for, in the precision of the forward
pass. So a model with these values in place of its weights (`restore`) gives the same answers.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ftray.errors import ModelError
from ftray.models.structure.groups import find_blocks, has_blocks

_BLOCK = 64
"""Consecutive weights that share a scale, their largest absolute value."""

BYTES = 0.5 + 4 / _BLOCK
"""Bytes that a weight takes: four bits, and its part of an fp32 scale."""

_KEY = "train.weights"
_NF4 = "nf4"


class QuantizedLinear(nn.Linear):
    """A frozen linear layer in four bits a weight. Its bias may train."""

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)  # without the weights that nn.Linear would make
        from bitsandbytes.functional import quantize_4bit

        self.in_features, self.out_features = layer.in_features, layer.out_features
        whole = layer.weight.detach().float().contiguous()
        packed, state = quantize_4bit(whole, blocksize=_BLOCK, quant_type=_NF4)
        self.packed = nn.Parameter(packed, requires_grad=False)
        self.register_buffer("scales", state.absmax, persistent=False)
        self.bias = layer.bias

    def values(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the weights, (out_features, in_features)."""
        from bitsandbytes.functional import QuantState, dequantize_4bit

        shape = torch.Size((self.out_features, self.in_features))
        state = QuantState(self.scales, shape=shape, dtype=dtype, blocksize=_BLOCK, quant_type=_NF4)
        return dequantize_4bit(self.packed, state)

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """The weights in fp32, as a new tensor."""
        return self.values(torch.float32)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = _Product.apply(input, self.bias, self)
        return found


class _Product(torch.autograd.Function):
    """The product with a layer's weights, which are unpacked in each pass and not kept for the
    backward pass."""

    @staticmethod
    def forward(
        ctx: Any, input: torch.Tensor, bias: torch.Tensor | None, layer: QuantizedLinear
    ) -> torch.Tensor:
        device = input.device.type
        is_cast = torch.is_autocast_enabled(device)
        ctx.computes = torch.get_autocast_dtype(device) if is_cast else input.dtype
        ctx.layer, ctx.dtype = layer, input.dtype
        return nn.functional.linear(input, layer.values(ctx.computes), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (gradient,) = gradients
        to_input = to_bias = None
        if ctx.needs_input_grad[0]:
            to_input = gradient.matmul(ctx.layer.values(ctx.computes)).to(ctx.dtype)
        if ctx.needs_input_grad[1]:
            to_bias = gradient.flatten(end_dim=-2).sum(0).to(ctx.layer.bias.dtype)
        return to_input, to_bias, None


def quantize(model: nn.Module) -> None:
    """Keep the linear layers of the model's blocks in four bits, and all other weights in fp32.
    Raises ModelError where bitsandbytes is missing or the blocks have no linear layer."""
    check_quantizable(model)
    with torch.no_grad():
        for parent, name, layer in list(_layers(model)):
            setattr(parent, name, QuantizedLinear(layer))
        for parameter in model.parameters():
            if parameter.is_floating_point():
                # A copy: the parameter may map the file that the model was read from.
                parameter.data = parameter.data.to(torch.float32, copy=True)


def restore(model: nn.Module) -> None:
    """Replace the layers in four bits by linear layers with the same values in fp32."""
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, QuantizedLinear):
                whole = nn.Linear(layer.in_features, layer.out_features, device="meta")
                whole.weight = nn.Parameter(layer.weight)
                whole.bias = layer.bias
                setattr(parent, name, whole)


def check_quantizable(model: nn.Module) -> None:
    """Raise ModelError where `quantize` would. `model` may be on the meta device."""
    if importlib.util.find_spec("bitsandbytes") is None:
        fix = "get it by pip install 'ftray[nf4]' on every node"
        raise ModelError.of(_KEY, _NF4, "needs the package bitsandbytes", fix)
    if next(_layers(model), None) is None:
        problem = f"the blocks of {type(model).__name__} have no linear layer"
        raise ModelError.of(_KEY, _NF4, problem, "set auto")


def quantizable(model: nn.Module) -> int:
    """Count the frozen weights that `quantize` keeps in four bits."""
    weights = [layer.weight for *_, layer in _layers(model)]
    return sum(weight.numel() for weight in weights if not weight.requires_grad)


def _layers(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """Yield (parent, name in the parent, layer) of the linear layers of the blocks; of a model
    without blocks in order, those in lists of layers. Layers of other classes that derive from
    nn.Linear may compute something else, and stay as they are."""
    named = dict(model.named_modules())
    blocks = find_blocks(model) if has_blocks(model) else None
    lists = tuple(f"{name}." for name, each in named.items() if isinstance(each, nn.ModuleList))

    def is_inside(name: str) -> bool:
        return blocks.of(name) is not None if blocks else f"{name}.".startswith(lists)

    for prefix, parent in named.items():
        for name, layer in parent.named_children() if is_inside(prefix) else ():
            if type(layer) is nn.Linear:
                yield parent, name, layer
