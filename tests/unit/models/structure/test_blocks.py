"""What trains and what stays, on a small random network of every family that has blocks."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from ftray.errors import ModelError
from ftray.models.structure.blocks import FreezePlan, layer_depths, plan_freeze
from ftray.models.structure.cut import frozen_blocks
from ftray.models.structure.groups import find_blocks
from tests.helpers.models.tiny_networks import BLOCKS, STACKED, UNSTACKED, tiny_batch, tiny_network

DEPTHS = range(BLOCKS + 1)
# What feeds the first block, and what follows the last, in the words of all families.
BELOW = ("embed", "wte", "wpe")
ABOVE = ("classifier", "score", "pooler", "head.", "norm.weight", "ln_f")
# Tables of relative positions feed every block and not the state that enters the first.
# DeBERTa's convolution comes after its first block.
SHARED = ("rel_embeddings", "relative_attention_bias", "encoder.LayerNorm", "encoder.conv")

network = lru_cache(tiny_network)


def fresh(family: str) -> nn.Module:
    return copy.deepcopy(network(family))


def prefix(model: nn.Module) -> str:
    """Of the names of the parameters in the blocks, which all sit in one list."""
    (stack,) = {name.rpartition(".")[0] for (name,) in find_blocks(model).names}
    return stack + "."


def block_of(name: str, stack: str) -> int | None:
    return int(name.removeprefix(stack).split(".")[0]) if name.startswith(stack) else None


def test_a_name_tells_the_block_that_it_is_in(family: str) -> None:
    model = network(family)
    blocks, stack = find_blocks(model), prefix(model)
    assert len(blocks) == BLOCKS
    assert blocks.last is model.get_submodule(f"{stack}{BLOCKS - 1}")
    assert blocks.first(1) is model.get_submodule(f"{stack}1")
    for name, _ in [*model.named_parameters(), *model.named_modules()]:
        is_list = name == stack.removesuffix(".")
        assert blocks.of(name) == (None if is_list else block_of(name, stack)), name


class Boundary:
    """The state that enters the first block that trains, as the model computes it."""

    def __init__(self, model: nn.Module, unfreeze: int) -> None:
        self.state: torch.Tensor
        blocks = find_blocks(model)
        if unfreeze:
            first = blocks.first(len(blocks) - unfreeze)
            first.register_forward_pre_hook(self._enter, with_kwargs=True)
        else:
            blocks.last.register_forward_hook(self._leave)

    def _enter(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.state = (args[0] if args else kwargs["hidden_states"]).detach().clone()

    def _leave(self, _module: Any, _args: Any, output: Any) -> None:
        self.state = (output[0] if isinstance(output, tuple) else output).detach().clone()


@pytest.fixture(params=STACKED)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("unfreeze", DEPTHS)
def test_the_top_blocks_and_what_is_above_train(family: str, unfreeze: int) -> None:
    model = network(family)
    stack = prefix(model)
    plan = plan_freeze(model, unfreeze, tiny_batch())
    for name, _ in model.named_parameters():
        block = block_of(name, stack)
        if block is not None:
            expected = block >= BLOCKS - unfreeze
        elif any(word in name for word in SHARED):
            expected = unfreeze == BLOCKS
        elif any(word in name for word in BELOW):
            expected = False
        elif any(word in name for word in ABOVE):
            expected = True
        else:
            raise AssertionError(f"a name that this test does not know: {name}")
        assert (name in plan.trainable) == expected, name


@pytest.mark.parametrize("unfreeze", DEPTHS)
def test_what_trains_does_not_touch_the_state_at_the_boundary(family: str, unfreeze: int) -> None:
    model = fresh(family)
    plan = plan_freeze(model, unfreeze, tiny_batch())
    boundary = Boundary(model, unfreeze)
    model(**tiny_batch())
    before = boundary.state
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name in plan.trainable:
            parameters[name].add_(torch.randn_like(parameters[name]))
    model(**tiny_batch())
    assert torch.equal(boundary.state, before)


@pytest.mark.parametrize("unfreeze", [0, 1, BLOCKS - 1, "all"])
def test_a_step_moves_what_was_planned_and_nothing_else(family: str, unfreeze: Any) -> None:
    model = fresh(family)
    plan = plan_freeze(model, unfreeze, tiny_batch())
    plan.apply(model)
    plan.set_train_mode(model)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for seed in range(2):
        logits = model(**tiny_batch(rows=4, seed=seed)).logits
        nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()
    moved = {
        name for name, value in model.named_parameters() if not torch.equal(value, before[name])
    }
    assert moved == set(plan.trainable)


def test_frozen_blocks_drop_nothing_out(family: str) -> None:
    model = fresh(family)
    plan = plan_freeze(model, 1, tiny_batch())
    plan.set_train_mode(model)
    boundary = Boundary(model, 1)
    torch.manual_seed(0)
    first = model(**tiny_batch()).logits
    state = boundary.state
    second = model(**tiny_batch()).logits
    assert torch.equal(boundary.state, state)
    assert not torch.equal(first, second), "above the boundary dropout is on"


def test_the_whole_model_is_in_train_mode_when_all_of_it_trains(family: str) -> None:
    model = fresh(family)
    plan = plan_freeze(model, "all", tiny_batch())
    plan.set_train_mode(model)
    assert all(module.training for module in model.modules())
    assert plan.trainable == tuple(name for name, _ in model.named_parameters())
    assert plan.trainable_parameters == plan.total_parameters


def test_planning_leaves_the_model_as_it_was(family: str) -> None:
    model = fresh(family)
    first, *_, last = model.parameters()
    first.requires_grad_(False)
    inner = find_blocks(model)
    inner.first(0).train()
    inner.first(1).eval()
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    modes = [module.training for module in model.modules()]
    with torch.no_grad():
        values = [parameter.clone() for parameter in model.parameters()]
    chance = torch.get_rng_state()
    plan_freeze(model, 1, tiny_batch())
    assert torch.equal(torch.get_rng_state(), chance)
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), values, strict=True))
    assert not any(hooks for module in model.modules() for hooks in _hooks(module))


def _hooks(module: nn.Module) -> Iterator[Any]:
    yield module._forward_hooks
    yield module._forward_pre_hooks


def test_a_failed_planning_leaves_the_model_as_it_was() -> None:
    model = fresh("bert")
    model.requires_grad_(False)
    model.train()
    with pytest.raises(IndexError):
        plan_freeze(model, 1, {"input_ids": torch.tensor([[10_000]])})
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())
    assert not any(hooks for module in model.modules() for hooks in _hooks(module))


def test_the_plan_counts_blocks_and_parameters(family: str) -> None:
    model = network(family)
    plans = [plan_freeze(model, unfreeze, tiny_batch()) for unfreeze in DEPTHS]
    sizes = {name: value.numel() for name, value in model.named_parameters()}
    for plan in plans:
        assert plan.blocks == BLOCKS
        assert plan.total_parameters == sum(sizes.values())
        assert plan.trainable_parameters == sum(sizes[name] for name in plan.trainable)
    counts = [plan.trainable_parameters for plan in plans]
    assert counts == sorted(set(counts)), "each block deeper trains more"


def test_the_plan_does_not_depend_on_the_batch(family: str) -> None:
    model = network(family)
    plans = {plan_freeze(model, 1, tiny_batch(rows, tokens)) for rows, tokens in [(1, 2), (3, 9)]}
    assert len(plans) == 1


def test_more_blocks_than_there_are_is_refused(family: str) -> None:
    with pytest.raises(ModelError) as caught:
        plan_freeze(network(family), BLOCKS + 1, tiny_batch())
    (problem,) = caught.value.problems
    assert problem.key == "train.unfreeze"
    assert problem.value == str(BLOCKS + 1)
    assert problem.fix == f"0 to {BLOCKS}, or all."


@pytest.mark.parametrize("family", UNSTACKED)
def test_of_a_model_without_one_list_of_blocks_no_number_of_them_trains(family: str) -> None:
    model, batch = network(family), tiny_batch()
    with pytest.raises(ModelError) as caught:
        plan_freeze(model, 1, batch)
    (problem,) = caught.value.problems
    assert problem.key == "train.unfreeze"
    assert problem.problem == "its 3 layers share one set of weights"
    assert problem.fix == "Set train.unfreeze to all, head, or patterns of parameter names."
    for advised in ("all", 0, (r"layer_norm|LayerNorm",)):
        assert plan_freeze(model, advised, batch).trainable


@pytest.mark.parametrize("family", UNSTACKED)
def test_the_head_of_a_model_without_one_list_of_blocks_is_known(family: str) -> None:
    model, batch = fresh(family), tiny_batch()
    model.config.use_cache = False
    plan = plan_freeze(model, 0, batch)
    assert all(n.startswith(("classif", "albert.pooler")) for n in plan.trainable)
    assert any(n.startswith("classif") for n in plan.trainable)
    plan.apply(model)
    plan.set_train_mode(model)
    states: list[torch.Tensor] = []
    model.base_model.encoder.register_forward_hook(
        lambda _module, _args, output: states.append(output.last_hidden_state)
    )
    model(**batch), model(**batch)
    assert torch.equal(*states), "no dropout below the head"
    assert model.training
    assert frozen_blocks(model, plan) == 0


@pytest.mark.parametrize("family", UNSTACKED)
def test_layers_without_an_order_have_no_depths(family: str) -> None:
    with pytest.raises(ModelError) as caught:
        layer_depths(network(family), tiny_batch())
    assert caught.value.problems[0].key == "train.layer_decay"


def test_a_model_that_does_not_say_where_its_head_begins_is_told_what_works() -> None:
    with pytest.raises(ModelError) as caught:
        plan_freeze(Averaged(), 0, tiny_batch())
    (problem,) = caught.value.problems
    assert problem.fix == "Set train.unfreeze to all, or to patterns of parameter names."
    assert plan_freeze(Averaged(), "all", tiny_batch()).trainable


class Averaged(nn.Module):
    """A classifier that is no model of transformers, without blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(97, 4), nn.Linear(4, 2)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        return SimpleNamespace(logits=self.head(self.table(input_ids).mean(1)))


@pytest.mark.parametrize("family", UNSTACKED)
def test_all_of_a_model_without_one_list_of_blocks_trains(family: str) -> None:
    model = fresh(family)
    plan = plan_freeze(model, "all", tiny_batch())
    plan.apply(model)
    plan.set_train_mode(model)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())


def test_a_plan_can_be_applied_to_another_copy() -> None:
    plan: FreezePlan = plan_freeze(network("bert"), 1, tiny_batch())
    model = fresh("bert")
    plan.apply(model)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == set(plan.trainable)
