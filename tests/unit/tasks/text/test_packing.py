"""Examples that share rows of a batch: the same losses and gradients, with less padding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, BloomConfig

from ftray.errors import SpecError
from ftray.spec.load import parse
from ftray.tasks.base import TaskSetup
from ftray.tasks.features import Batch, Example, Layout
from ftray.tasks.text.language_model.packed import POSITIONS
from ftray.tasks.text.preference_tuning import PreferenceTuning
from ftray.tasks.text.text_generation import Options, TextGeneration
from ftray.tasks.text.texts import IDS
from tests.helpers.models.tiny_generator import make_base, make_tokenizer

TASK = TextGeneration()
CHAT = [
    {"role": "user", "content": "film?"},
    {"role": "assistant", "content": "A plot and an actor."},
    {"role": "user", "content": "end?"},
]
ROWS = {
    "prompt": ["the film", "a plot and an actor and a film", json.dumps(CHAT), "film", "x"],
    "completion": [" has a wonderful plot", " dull", "Fine.", " good", "y"],
}


@pytest.fixture(scope="module", params=("llama", "gpt2"))
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "model", request.param)


def setup_of(packing: bool = True) -> TaskSetup:
    options = Options(learn="all", packing=packing)
    return TaskSetup(make_tokenizer(), max_length=64, options=options)


def packed(model: Any, examples: list[Example]) -> Batch:
    pack = TASK.packing(model, setup_of())
    assert pack is not None
    return pack(examples)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_losses_and_gradients_are_those_of_a_row_each(base: Path, attention: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(base, attn_implementation=attention).eval()
    examples = TASK.examples(setup_of(), ROWS).each()
    alone, together = TASK.collate(setup_of(), examples), packed(model, examples)
    assert len(together.inputs[IDS]) < len(alone.inputs[IDS]) == len(examples)
    assert together.inputs[IDS].shape[1] == alone.inputs[IDS].shape[1]
    found = []
    for batch in (alone, together):
        model.zero_grad()
        losses = TASK.losses(TASK.forward(model, batch.inputs), batch, 0.1)
        losses.sum().backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
        found.append((losses.detach(), gradients))
    tokens = TASK.terms(lambda name: np.array([e[name] for e in examples]), np.empty(0))
    gap = (found[0][0] - found[1][0]).abs().numpy() / tokens
    assert len(gap) == len(examples) and gap.max() < 1e-5
    for name, gradient in found[0][1].items():
        assert torch.allclose(gradient, found[1][1][name], rtol=1e-4, atol=1e-5), name
    states = [TASK.metric_state(TASK.forward(model, b.inputs), b, setup_of()).sums
              for b in (alone, together)]  # fmt: skip
    for name, value in states[0].items():
        assert float(states[1][name]) == pytest.approx(float(value), rel=1e-5)


def test_sequences_are_laid_into_few_rows() -> None:
    draw = np.random.default_rng(0)
    for _ in range(50):
        lengths = draw.integers(1, 30, draw.integers(1, 20)).tolist()
        rows, starts = Layout.first_fit(lengths, max(lengths))
        taken: set[tuple[int, int]] = set()
        for row, start, length in zip(rows, starts, lengths, strict=True):
            places = {(row, start + place) for place in range(length)}
            assert start + length <= max(lengths) and not taken & places
            taken |= places
        # No two rows would fit into one.
        used = np.bincount(rows, lengths)
        assert len(used) == 1 or np.sort(used)[:2].sum() > max(lengths)
    assert Layout.first_fit([3, 6, 2, 1], 6) == ([1, 0, 1, 1], [0, 0, 3, 5])


def test_flash_attention_gets_all_examples_in_one_row_without_padding(base: Path) -> None:
    """It keeps the sequences of a row apart by positions only where a batch has one row."""
    config = AutoConfig.from_pretrained(base)
    config._attn_implementation = "flash_attention_2"
    model = type("Model", (), {"config": config})()
    examples = TASK.examples(setup_of(), ROWS).each()
    batch = packed(model, examples)
    assert batch.inputs[IDS].shape == (1, sum(len(example[IDS]) for example in examples))
    positions = batch.inputs[POSITIONS][0]
    assert int((positions == 0).sum()) == len(examples)
    assert batch.inputs.keys() == {IDS, POSITIONS}
    learnt = batch.inputs[IDS][batch.targets["rows"], batch.targets["before"] + 1]
    assert torch.equal(learnt, batch.targets["ids"])
    assert TASK.untrainable(model, setup_of()) == ""
    assert "one row" in PreferenceTuning().untrainable(model, setup_of())


def test_without_the_option_each_example_has_a_row(base: Path) -> None:
    assert TASK.packing(None, setup_of(packing=False)) is None


def test_a_model_that_mixes_the_sequences_of_a_row_is_refused() -> None:
    shape = {"hidden_size": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.5}
    config = BloomConfig(vocab_size=420, **shape)
    model = AutoModelForCausalLM.from_config(config).eval()
    assert TASK.untrainable(model, setup_of()).endswith("task_options.packing has to be false")
    assert TASK.untrainable(model, setup_of(packing=False)) == ""


def test_packing_is_yes_or_no() -> None:
    with pytest.raises(SpecError, match="task_options.packing"):
        parse(
            {
                "name": "run",
                "task": "text-generation",
                "model": {"name_or_path": "x"},
                "data": {"train": "x"},
                "task_options": {"packing": "rows"},
            }
        )
