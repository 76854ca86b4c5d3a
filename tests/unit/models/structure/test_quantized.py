"""Linear layers in four bits: the same answers as from the values that the bits stand for."""

from __future__ import annotations

import copy
import importlib.util
from typing import Any

import pytest
import torch
from torch import nn

from ftray.errors import ModelError
from ftray.models.structure import quantized
from ftray.models.structure.groups import find_blocks, parts_of
from ftray.models.structure.placing import placed
from ftray.models.structure.quantized import QuantizedLinear, quantize, restore
from tests.helpers.models.tiny_networks import tiny_batch, tiny_network

# The last one ends within a block of 64 weights.
SIZES = ((64, 128), (48, 100), (3, 5))


def whole(layer: QuantizedLinear) -> nn.Linear:
    holder = nn.ModuleList([layer])
    restore(holder)
    found = holder[0]
    assert type(found) is nn.Linear
    return found


def passes(
    layer: nn.Module, inputs: torch.Tensor, autocast: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = inputs.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = layer(inputs)
    found.square().sum().backward()
    assert inputs.grad is not None
    return found, inputs.grad


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_computes_with_the_values_of_its_bits(
    sizes: tuple[int, int], autocast: bool, bias: bool
) -> None:
    torch.manual_seed(0)
    layer = QuantizedLinear(nn.Linear(*sizes, bias=bias))
    inputs = torch.randn(2, 7, sizes[0])
    for one, two in zip(
        passes(layer, inputs, autocast),
        passes(whole(copy.deepcopy(layer)), inputs, autocast),
        strict=True,
    ):
        assert one.dtype == two.dtype
        assert torch.equal(one, two)


def test_a_bias_can_train() -> None:
    torch.manual_seed(0)
    layer = QuantizedLinear(nn.Linear(64, 8))
    twin = whole(copy.deepcopy(layer))
    for each in (layer, twin):
        each(torch.ones(3, 64)).square().sum().backward()
    assert layer.bias.grad is not None and twin.bias.grad is not None
    torch.testing.assert_close(layer.bias.grad, twin.bias.grad)
    assert layer.packed.grad is None


def test_the_values_are_close_to_the_weights_and_stay_what_they_are() -> None:
    torch.manual_seed(0)
    given = nn.Linear(256, 256)
    layer = QuantizedLinear(given)
    gap = (layer.weight - given.weight).abs()
    scale = given.weight.detach().reshape(-1, 64).abs().amax(1, keepdim=True)
    # The widest gap between two values of NF4 is about 0.3 of the scale.
    assert (gap.reshape(-1, 64) <= 0.153 * scale).all()
    again = QuantizedLinear(whole(copy.deepcopy(layer)))
    assert torch.equal(layer.weight, again.weight)
    taken = layer.packed.nbytes + layer.scales.nbytes
    assert taken == given.weight.numel() * quantized.BYTES


@pytest.mark.parametrize("family", ["bert", "llama", "t5", "vit", "albert"])
def test_blocks_are_quantized_and_the_rest_stays(family: str) -> None:
    model = tiny_network(family)
    before = {name: value.clone() for name, value in model.named_parameters()}
    sizes = {part.name: part.parameters for part in parts_of(model, ())}
    expected = quantized.quantizable(model.requires_grad_(False))
    quantize(model)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, QuantizedLinear)}
    assert sum(m.in_features * m.out_features for m in layers.values()) == expected
    assert {part.name: part.parameters for part in parts_of(model, ())} == sizes
    restore(model)
    after = dict(model.named_parameters())
    assert after.keys() == before.keys()
    changed = {name for name in before if not after[name].equal(before[name])}
    assert changed == {f"{name}.weight" for name in layers}


def test_the_model_answers_as_with_the_values_of_its_bits() -> None:
    model = tiny_network("bert")
    quantize(model)
    with torch.no_grad(), placed(model, torch.device("cpu"), torch.float32):
        found = model.eval()(**tiny_batch()).logits
    assert len(find_blocks(model)) == len(find_blocks(tiny_network("bert")))
    restore(model)
    with torch.no_grad():
        assert torch.equal(model(**tiny_batch()).logits, found)


def test_a_model_without_linear_layers_is_refused(monkeypatch: Any) -> None:
    with pytest.raises(ModelError, match="no linear layer"):
        quantize(tiny_network("gpt2"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="bitsandbytes"):
        quantize(tiny_network("bert"))
