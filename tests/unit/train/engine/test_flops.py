"""The FLOP of a token: 6 N, with adapters 4 N, and 2 N or none below what trains."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from ftray.models.structure.blocks import count_blocks, plan_freeze
from ftray.models.structure.cut import cut_off, find_cut
from ftray.models.structure.flops import flop_per_token
from ftray.spec.load import parse
from ftray.train.engine.lora import inject, plan_adapters
from tests.helpers.models.tiny_networks import tiny_batch, tiny_generator, tiny_network


def looked_up(model: nn.Module) -> int:
    """Weights of embeddings."""
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding))


def computing(model: Any) -> int:
    return sum(p.numel() for p in model.parameters()) - looked_up(model)


def planned(model: Any, unfreeze: Any) -> int:
    plan = plan_freeze(model, unfreeze, tiny_batch())
    plan.apply(model)
    return flop_per_token(model, plan)


@pytest.mark.parametrize("family", ["bert", "distilbert", "llama"])
def test_all_weights_cost_6_n(family: str) -> None:
    model = tiny_network(family)
    assert planned(model, "all") == 6 * computing(model)


def test_a_head_that_shares_its_weights_with_the_embeddings_computes() -> None:
    model = tiny_generator("gpt2")
    tied = model.get_input_embeddings().weight
    assert model.get_output_embeddings().weight is tied
    assert planned(model, "all") == 6 * (computing(model) + tied.numel())


def test_below_what_trains_a_weight_costs_2_and_nothing_from_the_trunk_cache() -> None:
    model = tiny_network("bert")
    blocks = count_blocks(model)
    each = computing(model.bert.encoder.layer[0])
    above = each + computing(model.bert.pooler) + computing(model.classifier)
    normalized = computing(model.bert.embeddings)
    assert planned(model, 1) == 6 * above + 2 * ((blocks - 1) * each + normalized)
    plan = plan_freeze(model, 1, tiny_batch())
    cut_off(model, find_cut(model.eval(), blocks - 1, tiny_batch()))
    assert flop_per_token(model, plan) <= 6 * above + 2 * normalized


def test_adapters_cost_about_4_n() -> None:
    model = tiny_network("llama")
    whole = computing(model)
    tree = {"name": "x", "model": {"name_or_path": "x"}, "data": {"train": "x"}}
    inject(model, parse({**tree, "train": {"lora": {"rank": 1}, "unfreeze": "all"}}))
    plan = plan_adapters(model, "all", tiny_batch())
    plan.apply(model)
    adapters = plan.trainable_parameters
    found = flop_per_token(model, plan)
    # The first block's projections get no gradient to pass on: their input does not train.
    assert 3.5 * whole < found < 4 * whole + 6 * adapters
