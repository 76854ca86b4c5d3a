"""Classifiers as a graph of torch: the same answers, or none of it."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ftray.models.backends import traced
from ftray.models.backends.graph import Unfit
from ftray.models.backends.traced import TracedModel
from ftray.models.backends.unpadded import Unpadded, lay_out
from ftray.models.inference.predictor import Predictor
from ftray.models.structure.groups import find_blocks
from ftray.spec.sections.compute import Compute
from ftray.store.files.location import Location
from tests.helpers.models.odd_networks import Odd, Rigid
from tests.helpers.models.tiny_model import GOLDEN, logits_of, make_model
from tests.helpers.models.tiny_networks import STACKED, tiny_batch, tiny_network

TEXTS = [*GOLDEN, "Bad.", "It is neither good nor bad " * 20, "naïve – 日本語 🎬", "Dull " * 7]
SHAPES = ((2, 6), (1, 1), (3, 9), (5, 14))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Location:
    return make_model(tmp_path_factory.mktemp("traced") / "model")


@pytest.mark.parametrize("batch_size", [1, 3, 32])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_answers_are_the_same(made: Location, precision: Any, batch_size: int) -> None:
    compute = Compute(precision=precision)
    exact, found = (Predictor(made, batch_size, compute) for _ in range(2))
    found.trace()
    assert isinstance(found.model, TracedModel)
    found.check_golden()
    # Without padding the sums have another order; and the graph has some constants in fp16 that the
    # model computes in fp32.
    most = {"fp32": 1e-5, "bf16": 1e-2, "fp16": 4e-3}[precision]
    torch.testing.assert_close(logits_of(found, TEXTS), logits_of(exact, TEXTS), rtol=0, atol=most)


@pytest.mark.parametrize(("precision", "most"), [("fp32", 0), ("bf16", 4e-3), ("fp16", 4e-3)])
def test_a_model_that_needs_padding_gives_the_same_answers(
    made: Location, precision: Any, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(model: nn.Module) -> Unpadded:
        raise Unfit("its blocks read positions")

    monkeypatch.setattr(traced, "Unpadded", refused)
    exact, found = (Predictor(made, 3, Compute(precision=precision)) for _ in range(2))
    found.trace()
    assert isinstance(found.model, TracedModel) and not found.pass_cost.packs
    # The graph has some constants in fp16 that the model computes in fp32.
    torch.testing.assert_close(logits_of(found, TEXTS), logits_of(exact, TEXTS), rtol=0, atol=most)


@pytest.mark.parametrize("family", STACKED)
def test_of_any_shape_in_any_family(family: str) -> None:
    model = tiny_network(family).eval()
    found = TracedModel(model, [tiny_batch(*shape) for shape in SHAPES])
    for batch in (tiny_batch(rows, tokens) for rows, tokens in (*SHAPES, (1, 12), (32, 2))):
        with torch.inference_mode():
            wanted = model(**batch).logits
        torch.testing.assert_close(found(**batch).logits, wanted, rtol=0, atol=1e-6)


PACKING = ("bert", "roberta", "electra", "distilbert")


@pytest.mark.parametrize("family", PACKING)
def test_without_padding_the_outputs_of_tokens_are_the_same(family: str) -> None:
    model = tiny_network(family).eval()
    found = TracedModel(model, [padded(3, 1, 8), padded(1), padded(9, 2)], packs=True)
    for batch in (padded(14, 1, 5, 5), padded(1), padded(12), padded(2, 2), padded(*range(1, 13))):
        with torch.inference_mode():
            wanted = model(**batch).logits
        torch.testing.assert_close(found(**batch).logits, wanted, rtol=0, atol=1e-6)


def test_without_padding_short_rows_share_the_length_of_a_long_one() -> None:
    model = tiny_network("bert").eval()
    seen: list[tuple[int, ...]] = []
    for block in find_blocks(model).modules:
        block[0].attention.register_forward_pre_hook(
            lambda _, args: seen.append(tuple(args[0].shape[:2]))
        )
    inputs = padded(14, 1, 5, 6)
    places, rows = lay_out(inputs["attention_mask"], 16)
    assert places.shape == rows.shape == (2, 14)
    with torch.inference_mode():
        Unpadded(model)(places, rows, **inputs)
    assert set(seen) == {(2, 14)}
    with torch.inference_mode():
        model(**inputs)
    assert seen[-1] == (4, 14), "the model is as it was"


@pytest.mark.parametrize("count", (1, 2, 3, 5, 8, 13, 21, 32))
def test_every_token_has_a_place_in_a_layout(count: int) -> None:
    rng = np.random.default_rng(count)
    mask = padded(*rng.integers(1, 40, count))["attention_mask"]
    places, rows = lay_out(mask, 16)
    tokens = places[rows >= 0]
    assert sorted(tokens.tolist()) == mask.flatten().nonzero().flatten().tolist()
    assert torch.equal(rows[rows >= 0], tokens // mask.shape[1])
    assert (places[rows < 0] == mask.numel()).all()
    assert places.numel() <= mask.numel()


@pytest.mark.parametrize("family", PACKING)
def test_a_row_alone_may_be_padded(family: str) -> None:
    model = tiny_network(family).eval()
    found = TracedModel(model, [padded(3, 1, 8), padded(1), padded(9, 2)], packs=True)
    longer = {name: values[:1] for name, values in padded(3, 9).items()}
    assert lay_out(longer["attention_mask"], 16)[0].tolist() == [[0, 1, 2]]
    for inputs in (longer, padded(3)):
        with torch.inference_mode():
            wanted = model(**inputs).logits
        torch.testing.assert_close(found(**inputs).logits, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", sorted({*STACKED, "albert"} - {*PACKING}))
def test_blocks_that_know_more_of_a_token_than_its_state_are_padded(family: str) -> None:
    with pytest.raises(Unfit):
        TracedModel(tiny_network(family).eval(), [padded(3, 1, 8), padded(9, 2)], packs=True)


def padded(*lengths: int) -> dict[str, torch.Tensor]:
    """Inputs of rows of these lengths."""
    inputs = tiny_batch(len(lengths), max(lengths))
    places = torch.arange(max(lengths))
    inputs["attention_mask"] = (places < torch.tensor(lengths)[:, None]).long()
    return inputs


class Unheard(nn.Module):
    """A model whose own code does not run while torch records it."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        if torch.jit.is_tracing():
            raise KeyError("not while it is traced")
        return SimpleNamespace(logits=(input_ids * attention_mask).float())


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (Odd(), "is off by .* where the input is 3 x 9"),
        (Rigid(), "fails where the input is 3 x 9"),
        (Unheard(), "KeyError"),
    ],
)
def test_a_model_that_differs_by_its_input_is_not_replaced(model: nn.Module, problem: str) -> None:
    with pytest.raises(Unfit, match=problem):
        TracedModel(model, [tiny_batch(2, 6), tiny_batch(3, 9)])


def test_a_model_that_cannot_be_traced_answers_all_the_same(
    made: Location, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = Predictor(made)
    before, network = logits_of(found, TEXTS), found.model
    plain = network.forward

    def forward(*values: Any, **inputs: Any) -> Any:
        if torch.jit.is_tracing():
            raise KeyError("not while it is traced")
        return plain(*values, **inputs)

    monkeypatch.setattr(network, "forward", forward)
    with caplog.at_level(logging.INFO, "ftray"):
        found.trace()
    assert found.model is network
    assert "KeyError" in caplog.text
    assert torch.equal(logits_of(found, TEXTS), before)


def test_onnx_is_left_to_itself(made: Location) -> None:
    found = Predictor(made, compute=Compute("onnx", "fp32"))
    before = found.model
    found.trace()
    assert found.model is before
