"""Copies of a model that share the memory of what they do not train."""

from __future__ import annotations

import pytest
import torch

from ftray.models.structure.blocks import plan_freeze
from ftray.models.structure.shared_parameters import own, twin
from tests.helpers.models.tiny_networks import STACKED, tiny_batch, tiny_network


@pytest.mark.parametrize("family", STACKED)
def test_what_a_twin_trains_is_its_own_and_the_rest_is_shared(family: str) -> None:
    base = tiny_network(family)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    copy = twin(base)
    plan = plan_freeze(copy, 1, tiny_batch())
    plan.apply(copy)
    own(copy, plan.trainable)
    optimizer = torch.optim.SGD([p for p in copy.parameters() if p.requires_grad], lr=0.1)
    copy(**tiny_batch(rows=2)).logits.square().sum().backward()
    optimizer.step()

    theirs = dict(base.named_parameters())
    assert all(parameter.grad is None for parameter in theirs.values())
    for name, parameter in copy.named_parameters():
        same = parameter.data_ptr() == theirs[name].data_ptr()
        assert same == (name not in plan.trainable), name
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    moved = [n for n in plan.trainable if not torch.equal(copy.get_parameter(n), before[n])]
    assert moved


def test_a_twin_of_a_twin_owns_nothing_yet() -> None:
    base = twin(tiny_network("bert"))
    own(base, [name for name, _ in base.named_parameters()])
    copy = twin(base)
    own(copy, ["classifier.weight"])
    mine, theirs = copy.get_parameter("classifier.weight"), base.get_parameter("classifier.weight")
    assert mine.data_ptr() != theirs.data_ptr()
