"""Models without their lowest blocks: the same logits and gradients to the bit, by family."""

from __future__ import annotations

import copy
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from ftray.errors import ModelError
from ftray.models.structure import cut as trunk
from ftray.models.structure.blocks import plan_freeze
from ftray.models.structure.cut import (
    capture,
    cut_off,
    cuttable_blocks,
    find_cut,
    frozen_blocks,
    gathered,
    shortened,
)
from tests.helpers.models.odd_networks import with_batch_norm
from tests.helpers.models.tiny_networks import (
    BLOCKS,
    GENERATING,
    SEEING,
    STACKED,
    tiny_batch,
    tiny_generator,
    tiny_images,
    tiny_network,
)


def rows(*lengths: int) -> dict[str, torch.Tensor]:
    """A batch of rows of those lengths, padded."""
    batch = tiny_batch(len(lengths), max(lengths))
    for row, length in enumerate(lengths):
        for values in batch.values():
            values[row, length:] = 0
    return batch


def gradients(model: Any, logits: torch.Tensor) -> dict[str, torch.Tensor]:
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2]))
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(named.values()))
    return dict(zip(named, found, strict=True))


@pytest.mark.parametrize("unfreeze", range(BLOCKS))
@pytest.mark.parametrize("family", [*STACKED, *SEEING])
def test_logits_and_gradients_are_those_of_the_whole_model(family: str, unfreeze: int) -> None:
    whole, batch = tiny_network(family), tiny_images() if family in SEEING else rows(9, 5, 3)
    plan = plan_freeze(whole, unfreeze, batch)
    blocks = frozen_blocks(whole, plan)
    assert blocks == BLOCKS - unfreeze
    cut = find_cut(whole, blocks, batch)
    pools = family in ("beit", "dinov2")  # their heads read all tokens
    assert (cut.reads is not None) == (unfreeze == 0 and not pools)
    (states,) = capture(whole, [cut], batch)
    replay = cut_off(copy.deepcopy(whole), cut)
    outcomes = []
    for model in (whole, replay.model):
        plan.apply(model)
        model.train()
        plan.set_train_mode(model)
        inputs = batch
        if model is replay.model:
            replay.feed(gathered(cut, states, batch.get("attention_mask")))
            inputs = shortened(cut, batch)
        torch.manual_seed(1)  # of the dropout above the cut
        logits = model(**inputs).logits
        outcomes.append((logits, gradients(model, logits)))
    (expected, wanted), (logits, found) = outcomes
    # Of one token a row, the head is given another shape, which some processors round otherwise,
    # and gradients of a final norm are added up over fewer zeros.
    alike = torch.equal if cut.reads is None else partial(torch.allclose, atol=1e-6)
    assert alike(logits, expected)
    assert wanted.keys() == found.keys()
    assert all(alike(found[name], wanted[name]) for name in wanted)
    assert not any(f".{i}." in n for i in range(blocks) for n, _ in replay.model.named_parameters())


@pytest.mark.parametrize("family", GENERATING)
@pytest.mark.parametrize("blocks", [1, BLOCKS])
def test_what_generates_is_cut_too_and_reads_every_token(family: str, blocks: int) -> None:
    whole, batch = tiny_generator(family), rows(9, 5, 3)
    expected = whole(**batch).logits
    cut = find_cut(whole, blocks, batch)
    assert cut.reads is None
    (states,) = capture(whole, [cut], batch)
    replay = cut_off(whole, cut)
    replay.feed(states)
    assert torch.allclose(replay.model(**batch).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_one_pass_gives_the_states_of_every_cut(family: str) -> None:
    model, batch = tiny_network(family), rows(7, 4)
    cuts = [find_cut(model, blocks, batch) for blocks in (1, 2, 3)]
    together = capture(model, cuts, batch)
    for cut, states in zip(cuts, together, strict=True):
        assert torch.equal(states, capture(model, [cut], batch)[0])


def test_what_trains_below_moves_the_boundary() -> None:
    model, batch = tiny_network("bert"), rows(6, 4)
    for wanted, blocks in (
        ("all", 0),
        (("classifier", r"layer\.1\."), 1),
        (("embeddings",), 0),
        (("classifier",), BLOCKS),
    ):
        assert frozen_blocks(model, plan_freeze(model, wanted, batch)) == blocks


def test_a_model_that_cannot_be_cut_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = tiny_network("bert"), rows(6, 4)
    # A model whose upper blocks look at more than what enters them.
    real = trunk.gathered
    monkeypatch.setattr(trunk, "gathered", lambda cut, values, mask: real(cut, values, mask) * 0)
    with pytest.raises(ModelError, match=r"train\.trunk_cache"):
        find_cut(model, 2, batch)


def test_statistics_over_padding_are_no_constant_of_a_row() -> None:
    model, batch = with_batch_norm(tiny_network("bert")), rows(6, 4)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with pytest.raises(ModelError, match="answers otherwise"):
        find_cut(model, 2, batch)
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
    assert not any(module.training for module in model.modules())


class Biased(nn.Module):
    """A model that looks at more of its lowest block than the hidden states it returns."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(97, 8)
        self.layers = nn.ModuleList(Block() for _ in range(3))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        hidden, bias = self.layers[0](self.table(input_ids))
        for layer in self.layers[1:]:
            hidden = layer(hidden)[0] + bias
        return SimpleNamespace(logits=hidden[:, 0])


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.linear(hidden_states), self.linear.bias


def test_a_model_that_needs_more_of_its_blocks_is_refused_and_left_whole() -> None:
    model, batch = Biased().eval(), rows(6, 4)
    whole = list(model.layers)
    with pytest.raises(ModelError, match="does not run without its lowest 2 blocks"):
        find_cut(model, 2, batch)
    assert list(model.layers) == whole
    assert not any(block._forward_pre_hooks for block in whole)


@pytest.mark.parametrize(
    ("family", "options", "reason"),
    [
        ("albert", {}, "its 3 layers share one set of weights"),
        ("albert", {"num_hidden_layers": 4, "num_hidden_groups": 2}, "several times"),
        ("t5", {}, "reads the encoder's output"),
        ("bart", {}, "reads the encoder's output"),
    ],
)
@pytest.mark.parametrize("blocks", [1, 2])
def test_why_a_model_cannot_be_cut(
    family: str, options: dict[str, Any], reason: str, blocks: int
) -> None:
    model = tiny_network(family, **options)
    with pytest.raises(ModelError, match=reason) as caught:
        cuttable_blocks(model)
    assert caught.value.problems[0].key == "train.trunk_cache"
    with pytest.raises(ModelError, match=reason):
        find_cut(model, blocks, rows(6, 4))
