"""Models over other tensors than their own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import is_fake

from ftray.models.structure.blocks import layer_depths, plan_freeze
from ftray.models.structure.placing import placed, without_numbers
from tests.helpers.models.tiny_networks import (
    SEEING,
    STACKED,
    tiny_batch,
    tiny_images,
    tiny_network,
)


class Counting(nn.Module):
    """Shared weights, statistics that move, and a forward pass that looks at values."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(4)
        self.passes = 0

    def forward(self, rows: torch.Tensor) -> Any:
        self.passes += 1
        if rows.sum() > 1000:
            rows = rows * 0
        return SimpleNamespace(logits=self.second(self.norm(self.first(rows))))


def test_a_model_is_placed_and_has_its_own_tensors_again() -> None:
    model = Counting().eval()
    model.first.weight.requires_grad_(False)
    own = {name: id(value) for name, value in [*model.named_parameters(), *model.named_buffers()]}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with placed(model, torch.device("cpu"), torch.float64):
        assert {p.dtype for p in model.parameters()} == {torch.float64}
        assert model.norm.num_batches_tracked.dtype == torch.int64, "no number that it rounds"
        assert model.second.weight is model.first.weight
        assert not model.first.weight.requires_grad
        model.train().requires_grad_(True)
        model(torch.randn(3, 4, dtype=torch.float64)).logits.sum().backward()
    found = {name: id(value) for name, value in [*model.named_parameters(), *model.named_buffers()]}
    assert found == own
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert not model.training
    assert not model.first.weight.requires_grad
    assert all(p.grad is None for p in model.parameters())


def test_what_fails_meanwhile_leaves_it_as_it_was() -> None:
    model = Counting()
    own = [id(p) for p in model.parameters()]
    with pytest.raises(ZeroDivisionError), placed(model, torch.device("meta")):
        assert model.first.weight.is_meta
        raise ZeroDivisionError
    assert [id(p) for p in model.parameters()] == own


@pytest.mark.parametrize("family", [*STACKED, *SEEING])
def test_what_trains_is_found_without_numbers(family: str) -> None:
    model = tiny_network(family)
    inputs = tiny_images() if family in SEEING else tiny_batch(2)
    real: list[bool] = []
    model.register_forward_pre_hook(
        lambda module, _: real.append(not is_fake(next(module.parameters())))
    )
    for find in (lambda m, i: plan_freeze(m, 1, i), layer_depths):
        found = without_numbers(model, inputs, find)
        assert not any(real), "the model itself ran"
        assert found == find(model, inputs)
        real.clear()


def test_what_a_family_keeps_for_all_its_models_is_made_with_numbers_again() -> None:
    """BEiT keeps an index of positions in a cache of the class."""
    model, inputs = tiny_network("beit"), tiny_images()
    expected = model(**inputs).logits
    for each in (model, tiny_network("beit")):
        without_numbers(each, inputs, lambda m, i: m(**i).logits)
        assert not is_fake(model(**inputs).logits)
    assert torch.equal(model(**inputs).logits, expected)


def test_a_model_of_any_size_is_planned_at_no_cost_wherever_it_lies() -> None:
    """On the meta device there is nothing to compute with."""
    with torch.device("meta"):
        model = tiny_network("llama", hidden_size=16384, intermediate_size=53248, vocab_size=128256)
    assert sum(p.numel() for p in model.parameters()) > 9e9
    plan = without_numbers(model, tiny_batch(), lambda m, i: plan_freeze(m, 1, i))
    assert plan.trainable_parameters > 2e9


def test_a_model_that_looks_at_values_runs_itself() -> None:
    model = Counting().eval()
    rows = torch.ones(2, 4)
    found = without_numbers(model, {"rows": rows}, lambda m, i: m(**i).logits)
    assert found.equal(model(rows).logits)
    assert model.passes == 2
