"""Token classification: words and their tokens, windows, spans, answers."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ftray.tasks import get_task
from ftray.tasks.base import TaskSetup
from ftray.tasks.schema import Schema
from ftray.tasks.text.tagging.chunks import scores
from ftray.tasks.text.tagging.pieces import words_in
from ftray.tasks.text.tagging.told import iob2, tagged_spans
from ftray.tasks.text.tagging.words import words_of
from tests.contracts.test_tasks import metrics_of
from tests.helpers.task_samples import SAMPLES

TASK = get_task("token-classification")
IOB2 = ("B-LOC", "B-PER", "I-LOC", "I-PER", "O")


def setup_of(labels: tuple[str, ...] = IOB2, max_length: int = 16, stride: int = 4) -> TaskSetup:
    setup = SAMPLES["token-classification"].setup(TASK, max_length, stride=stride)
    return replace(setup, schema=Schema(labels=labels))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Ann's (U.S.), e.g. 5%!", ["Ann's", "(", "U.S", ".", ")", ",", "e.g", ".", "5%", "!"]),
        ("@ann #tag http://x.y/z?q=1.", ["@ann", "#tag", "http://x.y/z?q=1", "."]),
        ("我在Rome", ["我", "在", "Rome"]),
        ("... ''", [".", ".", ".", "'", "'"]),
        (" \n", []),
    ],
)  # fmt: skip
def test_a_text_has_words(text: str, words: list[str]) -> None:
    assert [text[start:end] for start, end in words_of(text)] == words


def test_words_take_time_that_grows_with_the_text_alone() -> None:
    for text in ("." * 100_000, "a." * 50_000, "(" * 100_000):
        assert list(words_of(text))[-1].end == 100_000


def prefixed(rows: list[list[str]]) -> list[list[str]]:
    return [[tag if tag == "O" else f"I-{tag}" for tag in row] for row in rows]


@pytest.mark.parametrize(
    "labels", [IOB2, ("B-LOC", "I-LOC", "O"), ("LOC", "O", "PER")], ids=["two", "one", "io"]
)
def test_spans_are_counted_as_by_seqeval(labels: tuple[str, ...]) -> None:
    from seqeval.metrics import accuracy_score, f1_score, precision_score, recall_score

    draw = random.Random(0)
    for _ in range(50):
        rows = [draw.randint(1, 9) for _ in range(draw.randint(1, 6))]
        truth, predicted = (
            [[draw.choice(labels) for _ in range(size)] for size in rows] for _ in range(2)
        )
        predicted = [
            [draw.choice((a, b)) for a, b in zip(*of, strict=True)]
            for of in zip(truth, predicted, strict=True)
        ]
        flat = [
            np.array([labels.index(tag) for row in of for tag in row]) for of in (truth, predicted)
        ]
        begins = np.array([place == 0 for size in rows for place in range(size)])
        expected = truth, predicted
        if labels == ("LOC", "O", "PER"):  # seqeval knows tags with a prefix alone
            expected = prefixed(truth), prefixed(predicted)
        assert scores(*flat, begins, labels) == pytest.approx(
            {
                "f1": f1_score(*expected, zero_division=0),
                "precision": precision_score(*expected, zero_division=0),
                "recall": recall_score(*expected, zero_division=0),
                "accuracy": accuracy_score(*expected),
            }
        )


def test_schemes_tell_the_same_spans() -> None:
    from seqeval.metrics.sequence_labeling import get_entities

    draw = random.Random(1)
    for _ in range(100):
        tags = [f"{draw.choice('BIES')}-{draw.choice('XY')}" for _ in range(6)]
        tags = [draw.choice((tag, "O")) for tag in tags]
        assert get_entities(iob2(tags)) == get_entities(tags)
        assert iob2(iob2(tags)) == iob2(tags)


def test_parts_of_speech_are_a_span_each() -> None:
    truth, predicted = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 0])
    found = scores(truth, predicted, np.array([1, 0, 0, 0], bool), ("NN", "VB"))
    assert found == {"f1": 0.75, "precision": 0.75, "recall": 0.75, "accuracy": 0.75}


def test_a_word_is_learnt_by_its_first_token() -> None:
    text = "the unbelievable Ann"
    told = tagged_spans(text, [[4, 16, "PER"]])
    (example,) = TASK.examples(setup_of(), {"text": [text], "spans": [told.to_json()]}).each()
    tokens = setup_of().processor.convert_ids_to_tokens(example["input_ids"])
    assert tokens == ["[CLS]", "the", "unbelievable", "ann", "[SEP]"]
    text = "Ann antidisestablishmentarians"
    told = tagged_spans(text, [[0, 30, "PER"]])
    (example,) = TASK.examples(setup_of(), {"text": [text], "spans": [told.to_json()]}).each()
    assert len(example["input_ids"]) > 5 and example["learnt"] == 2
    assert [IOB2[tag] for tag in example["tags"] if tag >= 0] == ["B-PER", "I-PER"]
    assert example["tags"][1] >= 0 and example["tags"][2] >= 0, "and no later token"


@pytest.mark.parametrize("max_length", [8, 16, 33])
@pytest.mark.parametrize("stride", [0, 4, 100])
def test_each_word_of_a_long_text_is_tagged_once_and_in_order(max_length: int, stride: int) -> None:
    draw = random.Random(max_length)
    words = draw.choices(("Ann", "\ue000", "antidisestablishmentarians", "in", "."), k=60)
    text = " ".join(["start", *words])
    setup = setup_of(max_length=max_length, stride=stride)
    windows = TASK.encode(setup, [text])[0]
    assert len(windows) > 1 and all(len(each["input_ids"]) <= max_length for each in windows)
    found = np.concatenate([words_in(each) for each in windows])
    assert found[:, 1:].tolist() == [list(word) for word in words_of(text)]
    for window in windows:
        tokens = setup.processor.convert_ids_to_tokens(window["input_ids"])
        for token, start, end in words_in(window):
            if text[start:end] == "\ue000":
                assert token == -1
            else:
                assert text[start:end].lower().startswith(tokens[token].lower())


def test_a_window_tags_the_words_that_stand_in_its_middle() -> None:
    text = " ".join(f"w{chr(97 + n)}" for n in range(26))  # two tokens each
    windows = TASK.encode(setup_of(max_length=22, stride=8), [text])[0]
    for one, other in pairwise(windows):
        assert words_in(one)[-1][0] < 20 and words_in(other)[0][0] > 1


class Fixed(torch.nn.Module):
    """A model that finds what it is told: token id -> label."""

    def __init__(self, labels: dict[int, int], count: int) -> None:
        super().__init__()
        self.table = torch.zeros(40_000, count)
        self.table[:, -1] = 1.0  # O
        for token, label in labels.items():
            self.table[token] = 5.0 * torch.eye(count)[label]

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        return type("Found", (), {"logits": self.table[input_ids]})


@pytest.fixture
def fixed() -> Fixed:
    """Finds Ann Lee and Rome."""
    ids = setup_of().processor.convert_tokens_to_ids
    return Fixed({ids("ann"): 1, ids("lee"): 3, ids("rome"): 0}, 5)


def test_a_span_on_the_edge_of_two_windows_is_one(fixed: Fixed) -> None:
    for before in range(2, 12):
        text = "so " * before + "Ann Lee " + "on " * 12 + "in Rome"
        spans = [[3 * before, 3 * before + 7, "PER"], [len(text) - 4, len(text), "LOC"]]
        row = {"text": [text], "spans": [tagged_spans(text, spans).to_json()]}
        setup = setup_of(max_length=10, stride=2)
        made = TASK.examples(setup, row)
        batch = TASK.collate(setup, made.each())
        outputs = TASK.forward(fixed, batch.inputs)
        found = metrics_of(TASK, setup, made, [(batch, outputs)])
        assert (found["f1"], found["accuracy"], found["recall"]) == (1.0, 1.0, 1.0)
        (windows,) = TASK.encode(setup, [text])
        each = zip(windows, outputs["logits"], strict=True)
        answered = [(example, {"logits": logits}) for example, logits in each]
        (answer,) = TASK.answers(setup, [text], [answered])
        assert [each["word"] for each in answer] == ["Ann Lee", "Rome"]
        assert [[each["start"], each["end"], each["entity_group"]] for each in answer] == spans


def test_a_text_without_entities_has_no_answer(fixed: Fixed) -> None:
    setup = setup_of()
    (windows,) = TASK.encode(setup, ["so on"])
    outputs = TASK.forward(fixed, TASK.collate(setup, windows).inputs)
    answers = TASK.answers(setup, ["so on"], [[(windows[0], {"logits": outputs["logits"][0]})]])
    assert answers == [[]] and TASK.summary(answers[0]) == ""


def test_answers_are_those_of_the_pipeline(tmp_path: Path) -> None:
    from transformers import pipeline

    sample, setup = SAMPLES["token-classification"], setup_of(max_length=64)
    torch.manual_seed(5)
    base = sample.write_base(tmp_path)
    model = TASK.empty_model(base, setup.schema, dtype=torch.float32).eval()
    tagger = pipeline(
        "token-classification", model=model, tokenizer=setup.processor, aggregation_strategy="first"
    )
    draw = random.Random(0)
    for _ in range(20):
        text = " ".join(draw.choices(("Ann", "Lee", "film", "unbelievables", "Rome"), k=12))
        (windows,) = TASK.encode(setup, [text])
        with torch.inference_mode():
            logits = TASK.forward(model, TASK.collate(setup, windows).inputs)["logits"]
        (found,) = TASK.answers(setup, [text], [[(windows[0], {"logits": logits[0]})]])
        told = tagger(text)
        for name in ("entity_group", "start", "end"):
            assert [each[name] for each in found] == [each[name] for each in told]
        shares = [float(each["score"]) for each in told]
        assert [each["score"] for each in found] == pytest.approx(shares, abs=1e-5)


def test_a_type_has_both_its_tags() -> None:
    rows = [{"text": "Ann", "spans": json.dumps({"words": [[0, 3]], "tags": ["B-PER"]})}]
    assert TASK.fit(rows).labels == ("B-PER", "I-PER", "O")
    assert TASK.unlearnable(TASK.fit(rows)) == ""
