"""What trains and what stays where blocks are not one list of layers: encoder-decoders, and layers
that share weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ftray.errors import ModelError
from ftray.models.structure.blocks import layer_depths, plan_freeze
from ftray.models.structure.groups import block_lines, find_blocks
from tests.helpers.models.tiny_networks import (
    BLOCKS,
    TWO_STACKS,
    tiny_batch,
    tiny_network,
    tiny_translator,
)

DEPTHS = range(1, 2 * BLOCKS + 1)


def make_batch(rows: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    written = tiny_batch(rows, 4, seed + 100)
    return {**tiny_batch(rows, 6, seed), "decoder_input_ids": written["input_ids"]}


class Crossing:
    """The states that enter the lowest block that trains and the lowest block of the decoder, or
    what leaves the encoder and enters the lowest block of the decoder that trains."""

    def __init__(self, model: Any, unfreeze: int) -> None:
        self.states: dict[str, torch.Tensor] = {}
        blocks = find_blocks(model)
        lowest = len(blocks) - unfreeze
        if lowest >= BLOCKS:
            model.get_encoder().register_forward_hook(self._leave)
        for block in {lowest, max(lowest, BLOCKS)}:
            blocks.first(block).register_forward_pre_hook(self._enter, with_kwargs=True)

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        state = args[0] if args else kwargs["hidden_states"]
        self.states[f"into {id(module)}"] = state.detach().clone()

    def _leave(self, _module: nn.Module, _args: Any, output: Any) -> None:
        self.states["out of the encoder"] = output[0].detach().clone()


@pytest.fixture(params=TWO_STACKS)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


def test_the_decoders_blocks_lie_above_the_encoders(family: str) -> None:
    model = tiny_translator(family)
    blocks = find_blocks(model)
    assert len(blocks) == 2 * BLOCKS
    sides = [model.get_encoder(), model.get_decoder()]
    for index, (block,) in enumerate(blocks.modules):
        assert any(module is block for module in sides[index // BLOCKS].modules())


@pytest.mark.parametrize("unfreeze", DEPTHS)
def test_the_top_blocks_and_the_norms_behind_them_train(family: str, unfreeze: int) -> None:
    model = tiny_translator(family)
    blocks, plan = find_blocks(model), plan_freeze(model, unfreeze, make_batch())
    assert plan.blocks == 2 * BLOCKS
    for name, _ in model.named_parameters():
        if (block := blocks.of(name)) is not None:
            expected = block >= 2 * BLOCKS - unfreeze
        elif any(word in name for word in ("shared", "embed")):
            expected = False  # also the head, which shares its weights
        else:
            assert "norm" in name, "a name that this test does not know"
            expected = "decoder" in name or unfreeze > BLOCKS
        assert (name in plan.trainable) == expected, name


@pytest.mark.parametrize("unfreeze", DEPTHS)
def test_training_moves_what_is_planned_and_not_what_crosses_the_boundary(
    family: str, unfreeze: int
) -> None:
    model = tiny_translator(family)
    plan = plan_freeze(model, unfreeze, make_batch())
    plan.apply(model)
    plan.set_train_mode(model)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    crossing = Crossing(model, unfreeze)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    states = []
    for _ in range(3):
        logits = model(**make_batch()).logits
        assert len(crossing.states) == 2 or unfreeze == BLOCKS
        states.append(dict(crossing.states))
        logits.logsumexp(-1).sum().backward()
        optimizer.step()
    moved = {n for n, value in model.named_parameters() if not torch.equal(value, before[n])}
    assert moved == set(plan.trainable)
    for name, state in states[0].items():
        assert all(torch.equal(state, later[name]) for later in states), f"{name}, dropout or not"
    with torch.no_grad():
        first, second = (model(**make_batch()).logits for _ in range(2))
    assert not torch.equal(first, second), "above the boundary dropout is on"


def test_patterns_leave_no_dropout_below_what_trains(family: str) -> None:
    model = tiny_translator(family)
    plan = plan_freeze(model, (rf"decoder\.\w+\.{BLOCKS - 1}\.",), make_batch())
    plan.apply(model)
    plan.set_train_mode(model)
    crossing = Crossing(model, 1)
    model(**make_batch())
    before = dict(crossing.states)
    model(**make_batch())
    assert all(torch.equal(crossing.states[name], state) for name, state in before.items())


def test_a_norm_between_encoder_and_decoder_is_as_deep_as_the_encoders_top_block() -> None:
    depths = layer_depths(tiny_translator("t5"), make_batch())
    assert depths["shared.weight"] == 2 * BLOCKS + 1
    assert depths["encoder.block.0.layer.0.layer_norm.weight"] == 2 * BLOCKS
    assert depths["encoder.final_layer_norm.weight"] == BLOCKS + 1
    assert depths["decoder.block.0.layer.0.layer_norm.weight"] == BLOCKS
    assert depths["decoder.final_layer_norm.weight"] == 0


def test_the_head_of_a_classifier_alone_trains() -> None:
    plan = plan_freeze(tiny_network("t5"), 0, tiny_batch())
    assert all("head" in name or "decoder.final_layer_norm" in name for name in plan.trainable)
    assert plan_freeze(tiny_translator("bart"), 0, make_batch()).trainable == ()


def test_more_blocks_than_both_have_are_refused(family: str) -> None:
    with pytest.raises(ModelError, match=f"the model has {2 * BLOCKS} blocks"):
        plan_freeze(tiny_translator(family), 2 * BLOCKS + 1, make_batch())


def test_people_are_shown_both_lists_and_the_boundary() -> None:
    model = tiny_translator("bart", encoder_ffn_dim=24, decoder_ffn_dim=24)
    plan = plan_freeze(model, BLOCKS + 1, make_batch())
    assert list(block_lines(model, plan.trainable)) == [
        "6 blocks from stem to head: model.encoder.layers.0 to 2, each 0.00196 M; "
        "model.decoder.layers.0 to 2, each 0.00308 M parameters",
        "  the top 4 train, from model.encoder.layers.2 on; "
        "beside them 0 tensors outside of the blocks",
    ]


def test_a_decoder_may_have_fewer_blocks() -> None:
    model = tiny_translator("marian", decoder_layers=2)
    blocks = find_blocks(model)
    assert (len(blocks), blocks.encoder_blocks) == (BLOCKS + 2, BLOCKS)
    trainable = plan_freeze(model, 2, make_batch()).trainable
    assert {blocks.of(name) for name in trainable} == {BLOCKS, BLOCKS + 1}


# ---- weights that several layers share -----------------------------------------------------------


def grouped(seed: int = 0) -> Any:
    return tiny_network(
        "albert", seed, num_hidden_layers=4, num_hidden_groups=2, hidden_dropout_prob=0.1
    )


def test_groups_of_layers_that_share_weights_are_blocks() -> None:
    model = grouped()
    assert find_blocks(model).repeat
    plan = plan_freeze(model, 1, tiny_batch())
    assert list(block_lines(model, plan.trainable)) == [
        "2 blocks from stem to head: albert.encoder.albert_layer_groups.0 to 1, each 0.00196 M "
        "parameters",
        "  the top 1 train, from albert.encoder.albert_layer_groups.1 on; "
        "beside them 4 tensors outside of the blocks",
    ]


@pytest.mark.parametrize("unfreeze", [0, 1, 2])
def test_a_group_trains_in_all_of_its_layers(unfreeze: int) -> None:
    model = grouped()
    plan = plan_freeze(model, unfreeze, tiny_batch())
    plan.apply(model)
    plan.set_train_mode(model)
    blocks = find_blocks(model)
    trained = {block for name in plan.trainable if (block := blocks.of(name)) is not None}
    assert trained == set(range(2 - unfreeze, 2))
    for index, (group,) in enumerate(blocks.modules):
        states: list[torch.Tensor] = []
        group.register_forward_hook(lambda _m, _a, output, found=states: found.append(output[0]))
        model(**tiny_batch(4)), model(**tiny_batch(4))
        assert len(states) == 4, "each group runs twice in a pass"
        assert torch.equal(states[1], states[3]) == (index < 2 - unfreeze), "dropout"
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    logits = model(**tiny_batch(4)).logits
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
    torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2).step()
    moved = {n for n, value in model.named_parameters() if not torch.equal(value, before[n])}
    assert moved == set(plan.trainable)


def test_people_are_told_why_layers_cannot_be_counted() -> None:
    (line,) = block_lines(tiny_network("albert"), ["classifier.weight"])
    assert line == (
        "no blocks from stem to head: its 3 layers share one set of weights. "
        "Set train.unfreeze to all, head, or patterns of parameter names."
    )
