"""Preference tuning: the loss is that of DPO with a live copy of the base model, and what its
contract does not say."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig

from ftray.errors import ModelError
from ftray.models.inference.measure import InMemory
from ftray.models.inference.reference import compared, given_by
from ftray.spec.load import parse
from ftray.tasks import get_task
from ftray.tasks.base import TaskSetup
from ftray.tasks.features import Batch, Example, Examples
from ftray.tasks.schema import Schema
from ftray.tasks.text.language_model.learnt import SPANS
from ftray.tasks.text.language_model.packed import POSITIONS
from ftray.tasks.text.preference_tuning import REFERENCE, Options, PreferenceTuning
from ftray.tasks.text.texts import IDS
from ftray.train.base import load_base
from tests.helpers.models.tiny_generator import END, make_base

TASK = PreferenceTuning()
ROWS = {
    "prompt": [
        "the film",
        "a plot and an actor",
        json.dumps([{"role": "user", "content": "film?"}]),
    ],
    "chosen": [" has a wonderful plot", " dull", "A fine film."],
    "rejected": [" is dull", " has an actor and a film and a plot", "No."],
}
BETA = 0.3


@pytest.fixture(scope="module", params=("llama", "gpt2"))
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "model", request.param)


def spec_of(base: Path, **data: Any) -> Any:
    return parse(
        {
            "name": "run",
            "task": "preference-tuning",
            "model": {"name_or_path": str(base)},
            "data": {"train": "unused", "max_length": 64, **data},
            "task_options": {"beta": BETA},
        }
    )


def setup_of(base: Path, length: int = 64) -> tuple[Any, TaskSetup]:
    loaded = load_base(spec_of(base, max_length=length), Schema())
    return loaded.model.eval(), loaded.setup


def texts(tokenizer: Any, example: Example) -> list[tuple[str, str]]:
    """What is read and what is learnt, of each sequence."""
    starts = np.flatnonzero(np.asarray(example[POSITIONS]) == 0)
    spans = np.reshape(example[SPANS], (-1, 2))
    decode, ids = tokenizer.decode, example[IDS]
    pairs = zip(starts, spans, strict=True)
    return [(decode(ids[start:first]), decode(ids[first:end])) for start, (first, end) in pairs]


def test_both_answers_follow_the_prompt(base: Path) -> None:
    _, setup = setup_of(base)
    found = TASK.examples(setup, ROWS).each()
    assert texts(setup.processor, found[0]) == [
        ("the film", f" has a wonderful plot{END}"),
        ("the film", f" is dull{END}"),
    ]
    chat = f"<|user|>film?{END}<|assistant|>"
    assert texts(setup.processor, found[2]) == [(chat, f"A fine film.{END}"), (chat, f"No.{END}")]


def test_of_a_long_row_both_sequences_lose_the_same_of_the_prompt(base: Path) -> None:
    _, setup = setup_of(base, 8)
    rows = {"prompt": ["the film " * 20], "chosen": [" a plot"], "rejected": [" dull"]}
    (example,) = TASK.examples(setup, rows).each()
    (first, _), (second, _) = texts(setup.processor, example)
    assert first == second and rows["prompt"][0].endswith(first)
    assert max(example[POSITIONS]) == 7


def test_answers_that_are_equal_where_they_are_cut_are_rejected(base: Path) -> None:
    _, setup = setup_of(base, 4)
    same = " a plot and an actor"
    rows = {"prompt": ["film"], "chosen": [f"{same} and a film"], "rejected": [f"{same} and dull"]}
    assert TASK.examples(setup, rows).rejected == {0: "equal_within_max_length"}


def test_two_chats_that_differ_in_the_last_turn_are_a_row() -> None:
    asked = [{"role": "user", "content": "film?"}]
    chosen, rejected = ([*asked, {"role": "assistant", "content": c}] for c in ("Yes.", "No."))
    expected = {"prompt": json.dumps(asked), "chosen": "Yes.", "rejected": "No."}
    assert TASK.parse({"chosen": chosen, "rejected": np.array(rejected)}) == expected
    told = {"prompt": "not read: the chats have it", "chosen": chosen, "rejected": rejected}
    assert TASK.parse(told) == expected


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({}, {"prompt", "chosen", "rejected"}),
        ({"chosen": "a"}, {"prompt", "chosen", "rejected"}),
        ({"chosen": "a", "rejected": "b"}, {"chosen", "rejected"}),
        ({"messages": "turns"}, {"messages", "chosen", "rejected"}),
    ],
)
def test_columns_that_are_all_of_a_form_choose_it(
    columns: dict[str, str], expected: set[str]
) -> None:
    assert {*spec_of(Path("unused"), columns=columns).columns} == expected


def likelihood(model: Any, ids: list[int], asked: int) -> torch.Tensor:
    """The log-likelihood of the tokens from `asked` on, of a sequence that is alone in a batch."""
    rows = torch.tensor([ids])
    shares = model(input_ids=rows, use_cache=False).logits[0, asked - 1 : -1].double()
    return shares.log_softmax(-1).gather(1, rows[0, asked:, None]).sum()


def by_hand(model: Any, reference: Any, examples: list[Example], smoothing: float) -> torch.Tensor:
    """DPO as in the paper, with a live reference model, one sequence at a time."""
    losses = []
    for example in examples:
        starts = np.flatnonzero(np.asarray(example[POSITIONS]) == 0).tolist()
        spans = np.reshape(example[SPANS], (-1, 2)).tolist()
        ratios = []
        for start, (first, end) in zip(starts, spans, strict=True):
            ids = [int(token) for token in example[IDS][start:end]]
            with torch.no_grad():
                before = likelihood(reference, ids, first - start)
            ratios.append(likelihood(model, ids, first - start) - before)
        margin = BETA * (ratios[0] - ratios[1])
        sure = torch.nn.functional.logsigmoid(torch.stack([margin, -margin]))
        losses.append(-(1 - smoothing) * sure[0] - smoothing * sure[1])
    return torch.stack(losses)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_losses_are_those_with_a_live_reference(base: Path, smoothing: float) -> None:
    model, setup = setup_of(base)
    reference, made = copy.deepcopy(model), TASK.examples(setup, ROWS)
    split, cpu = InMemory(made, TASK, setup), torch.device("cpu")
    given = given_by(model, TASK, setup, split, cpu, 2)
    examples = replace(made, features={**made.features, REFERENCE: list(given[REFERENCE])}).each()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batch = TASK.collate(setup, examples)
    for step in range(4):
        losses = TASK.losses(TASK.forward(model, batch.inputs), batch, smoothing)
        live = by_hand(model, reference, examples, smoothing)
        assert losses.tolist() == pytest.approx(live.tolist(), rel=1e-5)
        if step == 0:
            assert losses.tolist() == pytest.approx([np.log(2)] * 3, abs=1e-5)
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
    assert losses.mean() < np.log(2)


def test_evaluation_compares_with_the_base_model_of_the_spec(base: Path) -> None:
    model, setup = setup_of(base)
    made = TASK.examples(setup, ROWS)
    found = compared(made, spec_of(base), setup, 2)
    given = given_by(model, TASK, setup, InMemory(made, TASK, setup), torch.device("cpu"), 2)
    assert np.array(found.features[REFERENCE]) == pytest.approx(given[REFERENCE], rel=1e-6)
    other = get_task("text-generation")
    plain = Examples({IDS: [[1, 2]]}, [0], [2], {})
    spec = spec_of(base).model_copy(update={"task": other.info.name})
    assert compared(plain, spec, setup, 2) is plain, "the task compares with nothing"


def test_metrics_are_those_of_the_rewards() -> None:
    setup = TaskSetup(None, options=Options(beta=2))
    logits = torch.zeros(2, 4, 5)
    targets = {
        "examples": torch.tensor([0, 0, 1, 1]),
        "rows": torch.tensor([0, 0, 1, 1]),
        "spans": torch.tensor([0, 1, 0, 1]),
        "before": torch.tensor([0, 2, 0, 2]),
        "ids": torch.tensor([1, 1, 1, 1]),
        "beta": torch.tensor([2.0, 2.0]),
    }
    plain = -np.log(5)
    reference = torch.tensor([[plain - 1, plain + 1], [plain, plain]], dtype=torch.float32)
    batch = Batch({}, {**targets, REFERENCE: reference})
    state = TASK.metric_state({"logits": logits}, batch, setup)
    found = TASK.metrics(
        type("Found", (), {"sums": {n: v.numpy() for n, v in state.sums.items()}})(), Schema()
    )
    assert found["accuracy"] == 0.75, "equal rewards count half"
    assert found["margin"] == pytest.approx(2) and found["chosen_reward"] == pytest.approx(1)
    assert found["loss"] == pytest.approx((np.log1p(np.exp(-4)) + np.log(2)) / 2, rel=1e-5)


def test_a_model_that_mixes_the_sequences_of_a_row_is_refused(tmp_path: Path) -> None:
    make_base(tmp_path / "model")
    config = BloomConfig(vocab_size=420, hidden_size=16, n_layer=2, n_head=2)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match="positions|see each other"):
        load_base(spec_of(tmp_path / "model"), Schema())
