"""The contract of ftray.tasks.base.BaseTask: one suite that every task passes with one `Sample`."""

from __future__ import annotations

import copy
import json
import math
import pickle
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ftray.data.cleaning.clean import table
from ftray.models.inference.measure import InMemory, Measured, measure
from ftray.models.inference.reference import given_by
from ftray.tasks import TASKS, Task, get_task, task_info
from ftray.tasks.base import BadRow, Outputs, TaskSetup, as_json, digest_of, from_json
from ftray.tasks.features import Batch, Example, Examples, Feature, cost, input_digest, mask_of
from ftray.tasks.metrics import ALONE, Group, Totals
from ftray.tasks.schema import Schema
from tests.helpers.task_kinds import KINDS
from tests.helpers.task_samples import SAMPLES, Sample, columns_of

LONGEST = 4096


@pytest.fixture(params=TASKS)
def task(request: pytest.FixtureRequest) -> Task:
    return get_task(request.param)


@pytest.fixture
def sample(task: Task) -> Sample:
    return SAMPLES[task.info.name]


def test_every_task_is_trained_and_served_by_a_test() -> None:
    assert {kind.task for kind in KINDS.values()} == TASKS.keys()


@pytest.fixture
def setup(task: Task, sample: Sample) -> TaskSetup:
    return sample.setup(task)


@pytest.fixture
def features(task: Task, setup: TaskSetup) -> dict[str, Feature]:
    return task.features(setup)


@pytest.fixture
def made(task: Task, sample: Sample, setup: TaskSetup, model: Any) -> Examples:
    """The examples of the sample's rows, with what the model gives for them before it trains."""
    found = task.examples(setup, columns_of(sample.rows))
    split = InMemory(found, task, setup)
    given = given_by(model, task, setup, split, torch.device("cpu"), 2) if task.from_base else {}
    columns = {name: list(values) for name, values in given.items()}
    return replace(found, features={**found.features, **columns})


@pytest.fixture
def batch(task: Task, setup: TaskSetup, made: Examples) -> Batch:
    return task.collate(setup, made.each())


@pytest.fixture
def base(sample: Sample, tmp_path: Path) -> str:
    """A folder with the config of a small model."""
    return sample.write_base(tmp_path)


@pytest.fixture
def model(task: Task, setup: TaskSetup, base: str) -> Any:
    torch.manual_seed(3)
    return task.empty_model(base, setup.schema, dtype=torch.float32).eval()


@pytest.fixture
def outputs(task: Task, model: Any, batch: Batch) -> Outputs:
    with torch.inference_mode():
        return task.forward(model, batch.inputs)


@pytest.fixture
def questions(task: Task, sample: Sample) -> list[Any]:
    return [task.question(row) for row in sample.rows]


def alone(task: Task, setup: TaskSetup, model: Any, example: Example) -> tuple[Outputs, Batch]:
    batch = task.collate(setup, [example])
    with torch.inference_mode():
        return task.forward(model, batch.inputs), batch


def inferred(
    task: Task, setup: TaskSetup, model: Any, examples: Sequence[Example]
) -> dict[str, torch.Tensor]:
    with torch.inference_mode():
        return task.infer(model, task.collate(setup, examples).inputs, setup)


def each(outputs: Outputs) -> list[Outputs]:
    """The outputs of each example of a batch."""
    rows = zip(*(value.unbind() for value in outputs.values()), strict=True)
    return [dict(zip(outputs, row, strict=True)) for row in rows]


def same(first: Any, second: Any) -> bool:
    """Whether two examples, or lists of them, hold the same values."""
    if isinstance(first, list):
        pairs = zip(first, second, strict=False)
        return len(first) == len(second) and all(same(a, b) for a, b in pairs)
    return first.keys() == second.keys() and all(
        np.array_equal(np.asarray(first[name]), np.asarray(second[name])) for name in first
    )


def check_declared(example: Example, features: dict[str, Feature]) -> None:
    """Check that an example's values are what the features are declared as."""
    for name, value in example.items():
        feature = features[name]
        found = np.asarray(value)
        assert found.astype(feature.dtype).astype(found.dtype).tolist() == found.tolist(), name
        assert found.ndim == 1 if feature.shape is None else found.shape == feature.shape, name


# What a task says of itself


def test_every_task_has_its_sample() -> None:
    assert SAMPLES.keys() == TASKS.keys()


def test_it_goes_by_its_name_and_can_be_sent(task: Task) -> None:
    assert get_task(task.info.name) is task
    assert task_info(task.info.name) is task.info
    assert pickle.loads(pickle.dumps(task)).info.name == task.info.name


def test_its_columns_are_told_and_the_answer_comes_last(task: Task) -> None:
    info = task.info
    *_, last = task.columns
    told = {name: info.modalities[name] for name in info.columns}
    assert told == info.modalities
    assert set(info.answers) < set(info.columns)
    if not info.generates:
        assert task.columns.items() <= told.items()
    if info.answers:
        assert last in info.answers and next(iter(task.columns)) not in info.answers
    assert info.synonyms.keys() <= set(info.columns)
    for form in info.forms:
        assert info.inputs(form), "there is something to ask"


def test_what_a_run_is_judged_by_is_among_its_metrics(task: Task) -> None:
    info = task.info
    assert {"loss", info.default_metric} <= info.metrics.keys()
    assert set(info.metrics.values()) <= {"min", "max"} and info.metrics["loss"] == "min"
    assert 1 <= len(info.headline) <= 2


def test_its_options_have_defaults_and_admit_no_other_names(task: Task, sample: Sample) -> None:
    task.info.options()
    with pytest.raises(ValueError, match="surprise"):
        task.info.options.model_validate({"surprise": 1})
    task.info.options.model_validate(sample.options)


# Rows


def test_a_clean_row_has_its_columns(task: Task, sample: Sample) -> None:
    for raw, expected in sample.clean:
        row = task.parse(raw)
        assert row == expected
        assert set(row) <= set(task.columns)
        assert {*task.columns} - {*row} <= {*task.info.columns}
        *_, answer = (name for name in task.columns if name in row)
        assert answer in (task.info.answers or row)
        assert all(value is not None for value in row.values())


def test_cleaning_a_clean_row_changes_nothing(task: Task, sample: Sample) -> None:
    for row in (*(row for _, row in sample.clean), *sample.rows):
        if not task.is_blank(task.question(row)):
            assert task.parse(row) == row


def test_clean_rows_are_the_same_in_a_table(task: Task, sample: Sample) -> None:
    found = table(columns_of(sample.rows), task.columns)
    assert found.to_pylist() == list(sample.rows)


def test_a_task_is_fitted_to_rows_that_come_one_by_one(task: Task, sample: Sample) -> None:
    rows = list(sample.rows)
    names = task.columns if task.fitted is None else task.fitted
    each = [{name: row[name] for name in names if name in row} for row in rows]
    assert task.fit(iter(each)) == task.fit(rows) == task.fit(iter(each[::-1]))


def test_what_is_asked_is_the_same_with_an_answer_and_without(task: Task, sample: Sample) -> None:
    for raw, expected in sample.questions:
        assert task.ask(raw) == expected
    for raw, row in sample.clean:
        without = {name: raw[name] for name in raw if name not in task.info.answers}
        assert task.ask(without) == task.ask(raw) == task.question(row)


def test_a_bad_row_has_a_kind(task: Task, sample: Sample) -> None:
    for raw, kind in sample.bad:
        with pytest.raises(BadRow) as caught:
            task.parse(raw)
        assert caught.value.kind == kind, raw
        again = pickle.loads(pickle.dumps(caught.value))
        assert (again.kind, again.detail) == (kind, caught.value.detail)
        assert len(caught.value.detail) < 500


def test_cleaning_leaves_the_source_row_alone(task: Task, sample: Sample) -> None:
    for raw, _ in sample.clean:
        before = copy.deepcopy(raw)
        task.parse(raw), task.ask(raw)
        assert repr(raw) == repr(before)


def test_what_shows_nothing_is_blank(task: Task, sample: Sample, questions: list[Any]) -> None:
    assert all(map(task.is_blank, sample.blank))
    assert not any(task.is_blank(asked) for _, asked in sample.questions)
    assert not task.is_blank(questions[-1])


def test_twins_are_known_by_their_keys(task: Task, sample: Sample) -> None:
    assert len({task.key(row) for row in sample.duplicates}) == 1
    first, second = sample.strangers
    assert task.key(first) != task.key(second)


def test_rows_are_stratified_by_their_labels(task: Task, sample: Sample) -> None:
    for row in (*sample.duplicates, *sample.rows):
        assert task.stratum(row) == (row["label"] if task.info.has_labels else "")


def test_the_labels_of_rows_are_those_of_the_schema(task: Task, sample: Sample) -> None:
    found = set()
    for row in sample.rows:
        found.update(task.labels_of({name: row[name] for name in row if name in task.info.answers}))
    assert found <= {*task.fit(sample.rows).labels}
    assert bool(found) == bool(task.fit(sample.rows).labels)


def test_the_schema_does_not_depend_on_the_order_of_rows(task: Task, sample: Sample) -> None:
    schema = task.fit(iter(sample.rows))
    backward = task.fit(reversed(sample.rows))
    assert backward.labels == schema.labels and backward.width == schema.width
    assert bool(schema.scale) == (task.info.output == "numbers")
    assert schema.labels or not task.info.has_labels
    assert Schema.model_validate_json(schema.model_dump_json()) == schema
    assert task.unlearnable(schema) == ""


def test_rows_that_teach_nothing_are_told(task: Task, sample: Sample) -> None:
    if sample.unlearnable:
        assert task.unlearnable(task.fit(sample.unlearnable))
    else:
        assert task.unlearnable(task.fit(sample.rows[:1])) == ""


# Questions


def test_a_question_is_the_same_behind_json(task: Task, sample: Sample) -> None:
    for raw, asked in sample.questions:
        fields = dict.fromkeys(asked, "text") if isinstance(asked, dict) else {}
        inputs = task.info.inputs(tuple(raw), fields)
        assert from_json(json.loads(json.dumps(as_json(asked))), inputs) == asked
        assert digest_of(asked) == digest_of(copy.deepcopy(asked))
    first, second = (task.question(row) for row in sample.rows[-2:])
    assert digest_of(first) != digest_of(second)


def test_a_longer_question_is_larger(task: Task, questions: list[Any]) -> None:
    assert 0 < task.size(questions[0]) < task.size(questions[-1])


@pytest.mark.parametrize("size", [4, 12])
def test_made_up_questions_can_be_asked(task: Task, setup: TaskSetup, size: int) -> None:
    for form in task.info.forms:
        inputs = task.info.inputs(form, setup.schema.fields)
        drawn = [
            task.made_up(setup, inputs, size, np.random.default_rng(seed)) for seed in (1, 1, 2)
        ]
        assert digest_of(drawn[0]) == digest_of(drawn[1]) != digest_of(drawn[2])
        names = {*drawn[0]} if isinstance(drawn[0], dict) else {*inputs}
        assert names == {*inputs}
        assert not any(map(task.is_blank, drawn))
        assert all(task.encode(setup, drawn))
        assert from_json(json.loads(json.dumps(as_json(drawn[0]))), inputs) == drawn[0]


# Examples


def test_features_are_declared(features: dict[str, Feature]) -> None:
    assert {feature.role for feature in features.values()} <= {"input", "target", "host"}
    assert any(feature.role == "input" for feature in features.values())
    for feature in features.values():
        told = json.loads(json.dumps(feature.to_json()))
        assert Feature.from_json(told) == feature


def test_an_encoded_question_has_inputs_and_no_targets(
    task: Task, setup: TaskSetup, features: dict[str, Feature], questions: list[Any]
) -> None:
    for examples in task.encode(setup, questions):
        for example in examples:
            check_declared(example, features)
            assert all(features[name].role != "target" for name in example)
            assert not task.info.reads_text or 1 <= cost(example, features) <= setup.max_length


def test_a_question_is_encoded_alike_alone_and_among_others(
    task: Task, sample: Sample, setup: TaskSetup, questions: list[Any]
) -> None:
    questions = [*questions, task.question(sample.unread[0])]
    found = task.encode(setup, questions)
    assert len(found) == len(questions)
    for question, examples in zip(questions, found, strict=True):
        assert same(task.encode(setup, [question])[0], examples)
    assert found[-1] == [], "nothing of it can be read"
    assert task.encode(setup, []) == [] and task.lengths(setup, []) == []


def test_what_is_read_of_questions_is_told_before(
    task: Task, setup: TaskSetup, questions: list[Any]
) -> None:
    spent: list[int] = []
    task.encode(setup, questions, spent.append)
    assert bool(spent) == task.info.reads_text and all(count > 0 for count in spent)

    def refuse(count: int) -> None:
        raise OverflowError(count)

    if spent:
        with pytest.raises(OverflowError):
            task.encode(setup, questions, refuse)


def test_lengths_tell_which_questions_are_cut(
    task: Task, setup: TaskSetup, features: dict[str, Feature], questions: list[Any]
) -> None:
    whole = replace(setup, max_length=LONGEST)
    lengths = task.lengths(setup, questions)
    assert lengths == task.lengths(whole, questions)
    for question, length in zip(questions, lengths, strict=True):
        cut, complete = (task.encode(each, [question])[0] for each in (setup, whole))
        if not length or not complete:
            continue  # nothing is ever cut off, or nothing is read
        (cut,), (complete,) = cut, complete
        assert length == cost(complete, features)
        assert (length > setup.max_length) == (not same(cut, complete))


def test_examples_are_whole_and_tell_the_rows_without_any(
    task: Task, sample: Sample, setup: TaskSetup, features: dict[str, Feature]
) -> None:
    unread, kind = sample.unread
    rows = (sample.rows[0], unread, *sample.rows[1:])
    found = task.examples(setup, columns_of(rows))
    assert found.rejected == {1: kind}
    assert {*found.rows} == {*range(len(rows))} - {1} and found.rows == sorted(found.rows)
    assert len(found.lengths) == len(rows) - 1
    assert {len(values) for values in found.features.values()} == {len(found)}
    assert found.features.keys() <= features.keys()
    examples = found.each()
    assert len(examples) == len(found)
    for example in examples:
        check_declared(example, features)
        assert not task.info.reads_text or 1 <= cost(example, features) <= task.longest(setup)
        json.dumps({n: np.asarray(v).tolist() for n, v in example.items()})
    if task.info.reads_text:
        assert found.lengths[0] < found.lengths[-1] > setup.max_length


def test_the_examples_of_a_row_do_not_depend_on_other_rows(
    task: Task, sample: Sample, setup: TaskSetup
) -> None:
    single = [task.examples(setup, columns_of((row,))) for row in sample.rows]
    made = task.examples(setup, columns_of(sample.rows))
    assert same([example for found in single for example in found.each()], made.each())
    assert [length for found in single for length in found.lengths] == made.lengths
    nothing = task.examples(setup, columns_of((sample.unread[0],)))
    assert len(nothing) == 0 and nothing.lengths == [] and nothing.rejected == {0: sample.unread[1]}


def test_a_question_is_read_as_its_row_is_learnt(
    task: Task, setup: TaskSetup, features: dict[str, Feature], made: Examples, questions: list[Any]
) -> None:
    if task.info.generates:
        return  # the answer is read, too
    of_rows: dict[int, list[Example]] = {row: [] for row in made.rows}
    for row, example in zip(made.rows, made.each(), strict=True):
        of_rows[row].append(example)
    for asked, learnt in zip(task.encode(setup, questions), of_rows.values(), strict=True):
        # Of a row that is learnt from several texts, the first is asked.
        assert len(asked) == (1 if task.info.couples_rows else len(learnt))
        for question, example in zip(asked, learnt, strict=False):
            assert same(question, {n: v for n, v in example.items() if n in question})
            assert input_digest(question, features) == input_digest(example, features)


def test_every_example_has_something_to_learn(
    task: Task, features: dict[str, Feature], made: Examples
) -> None:
    terms = terms_of(task, features, made)
    assert terms.dtype == np.float64 and terms.shape == (len(made),) and (terms >= 1).all()


def terms_of(task: Task, features: dict[str, Feature], made: Examples) -> np.ndarray:
    def column(name: str) -> np.ndarray:
        assert features[name].shape == (), "a number"
        return np.array(made.features[name])

    return task.terms(column, np.array([cost(example, features) for example in made.each()]))


def test_an_example_is_changed_at_random_and_stays_one(
    task: Task, sample: Sample, setup: TaskSetup, features: dict[str, Feature], made: Examples
) -> None:
    assert task.augmented_by(setup.options, 0.0) is None
    assert task.augmentation(setup, 0.0) is None
    if sample.augmenting is None:
        assert task.info.lacks.get("train.token_dropout", ())[:1] == (0.0,)
        return
    chosen, token_dropout = sample.augmenting
    setup = sample.setup(task, **chosen)
    reason = task.augmented_by(setup.options, token_dropout)
    change = task.augmentation(setup, token_dropout)
    assert reason and reason.partition(" ")[0].rpartition(".")[2] and change is not None
    for example in made.each()[1:]:
        before = copy.deepcopy(example)
        found = [change(example, np.random.default_rng(seed)) for seed in (*range(9), 0)]
        assert same(dict(found[0]), dict(found[-1])) and same(dict(example), before)
        assert any(not same(dict(found[0]), dict(other)) for other in found)
        for other in found:
            assert other.keys() == example.keys()
            check_declared(other, features)
            fixed = {name for name in example if features[name].role != "input"}
            assert same({n: other[n] for n in fixed}, {n: example[n] for n in fixed})
        task.collate(setup, found)


# Batches


def test_a_batch_has_its_examples_on_the_first_axis(
    setup: TaskSetup, features: dict[str, Feature], batch: Batch, made: Examples
) -> None:
    examples = made.each()
    assert same(list(batch.host), examples)
    assert batch.inputs and batch.targets
    assert {len(tensor) for tensor in batch.inputs.values()} == {len(examples)}
    for name in features.keys() & batch.inputs.keys():
        tensor = batch.inputs[name]
        lengths = [len(np.asarray(example[name])) for example in examples]
        if features[name].shape is None:
            assert tensor.dtype == torch.int64 and tensor.shape[1] == max(lengths)
            for row, example, length in zip(tensor, examples, lengths, strict=True):
                assert row[:length].tolist() == np.asarray(example[name]).tolist()
        else:
            assert tensor.shape[1:] == features[name].shape
    moved = batch.to(torch.device("meta"))
    assert all(t.is_meta for part in moved[:2] for t in part.values()) and moved.host is batch.host


def test_texts_are_padded_and_the_padding_is_masked(
    task: Task, setup: TaskSetup, features: dict[str, Feature], batch: Batch
) -> None:
    if not task.info.reads_text:
        return
    ids, mask = batch.inputs["input_ids"], batch.inputs.get("attention_mask")
    if mask is None:  # positions keep several sequences of a row apart, and padding from them
        mask = mask_of(cost(example, features) for example in batch.host)
        assert not batch.inputs["position_ids"][mask == 0].any()
    assert mask.dtype == torch.int64 and mask.shape == ids.shape
    assert mask.sum(1).tolist() == [cost(example, features) for example in batch.host]
    assert (mask.diff(dim=1) <= 0).all(), "padding is on the right"
    assert {*ids[mask == 0].tolist()} == {setup.processor.pad_token_id}


def test_questions_make_a_batch_without_targets(
    task: Task, setup: TaskSetup, model: Any, questions: list[Any]
) -> None:
    encoded = [example for examples in task.encode(setup, questions) for example in examples]
    found = task.collate(setup, encoded)
    assert found.targets == {}
    with torch.inference_mode():
        outputs = task.forward(model, found.inputs)
    assert outputs.keys() == {*task.outputs}
    assert {len(value) for value in outputs.values()} == {len(encoded)}


@pytest.mark.parametrize("size", [1, 3, 16])
def test_a_dummy_costs_as_much_as_it_is_told_to(
    task: Task, setup: TaskSetup, features: dict[str, Feature], model: Any, size: int
) -> None:
    example = task.dummy(setup, size)
    check_declared(example, features)
    assert cost(example, features) == (size if task.info.reads_text else 1)
    assert all(features[name].role != "target" for name in example)
    several = [example, task.dummy(setup, 2 * size)]
    outputs = task.forward(model, task.collate(setup, several).inputs)
    assert {len(value) for value in outputs.values()} == {2}


# Models


def test_a_model_is_loaded_with_a_head_for_the_schema(
    task: Task, sample: Sample, setup: TaskSetup, base: str, batch: Batch, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    folder = tmp_path / "made"
    task.empty_model(base, setup.schema, dtype=torch.float32).save_pretrained(folder)
    loaded = [task.load_model(str(folder), setup.schema, dtype=torch.float32) for _ in range(2)]
    first, second = (task.forward(each.eval(), batch.inputs) for each in loaded)
    assert all(torch.equal(first[name], second[name]) for name in task.outputs)
    head = task.head(setup.schema)
    config = loaded[0].config
    assert {name: getattr(config, name) for name in head} == head
    empty = task.empty_model(str(folder), setup.schema, dtype=torch.float32)
    assert {n: p.shape for n, p in empty.named_parameters()} == {
        n: p.shape for n, p in loaded[0].named_parameters()
    }
    if not head:
        return
    few = task.fit(sample.rows[:2])
    width = {name: value.shape[-1] for name, value in first.items()}
    assert width == dict.fromkeys(task.outputs, setup.schema.width or 1)
    other = task.load_model(str(folder), few, dtype=torch.float32).eval()
    found = task.forward(other, batch.inputs)
    assert {value.shape[-1] for value in found.values()} == {few.width or 1}


# Losses


def test_padding_does_not_change_a_loss(
    task: Task, setup: TaskSetup, model: Any, batch: Batch, outputs: Outputs
) -> None:
    if task.info.couples_rows:
        return  # a row has no loss of its own
    for smoothing in (0.0, 0.3):
        together = task.losses(outputs, batch, smoothing)
        for row, example in enumerate(batch.host):
            loss = task.losses(*alone(task, setup, model, example), smoothing)
            assert torch.allclose(loss, together[row : row + 1], atol=1e-4)


def test_there_is_one_loss_an_example_over_its_terms(
    task: Task,
    setup: TaskSetup,
    features: dict[str, Feature],
    made: Examples,
    batch: Batch,
    outputs: Outputs,
) -> None:
    losses = task.losses(outputs, batch)
    assert losses.shape == (len(made),) and losses.dtype == torch.float32
    terms = terms_of(task, features, made)
    found = metrics_of(task, setup, made, [(batch, outputs)])
    assert losses.sum().item() / terms.sum() == pytest.approx(found["loss"], rel=1e-5)


def test_half_precision_costs_the_loss_no_precision(
    task: Task, batch: Batch, outputs: Outputs
) -> None:
    halved = {name: value.to(torch.bfloat16) for name, value in outputs.items()}
    whole = {name: value.float() for name, value in halved.items()}
    for smoothing in (0.0, 0.3):
        found = task.losses(halved, batch, smoothing)
        assert found.dtype == torch.float32
        assert torch.equal(found, task.losses(whole, batch, smoothing))


def test_smoothing_costs_the_sure_more(task: Task, batch: Batch, outputs: Outputs) -> None:
    sure = {name: 99 * value for name, value in outputs.items()}
    plain, smoothed = (task.losses(sure, batch, smoothing) for smoothing in (0.0, 0.3))
    if "train.label_smoothing" in task.info.lacks:
        assert torch.equal(plain, smoothed)
        return
    assert not torch.allclose(plain, smoothed)
    # Beside the base model, unsure is one that gives what the base model gives.
    unsure = {n: value if task.from_base else 0 * value for n, value in outputs.items()}
    same = task.losses(unsure, batch)
    assert torch.allclose(task.losses(unsure, batch, smoothing=0.3), same, atol=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_gradients_flow_from_the_losses(
    task: Task, batch: Batch, outputs: Outputs, smoothing: float
) -> None:
    leaves = {name: value.clone().requires_grad_(True) for name, value in outputs.items()}
    task.losses(leaves, batch, smoothing).sum().backward()
    check_gradients(leaves)


def test_the_probe_loss_is_one_number_with_a_gradient_to_all_outputs(
    task: Task, setup: TaskSetup, model: Any
) -> None:
    inputs = task.collate(setup, [task.dummy(setup, size) for size in (3, 8)]).inputs
    with torch.no_grad():
        found = task.forward(model, inputs)
    leaves = {name: value.clone().requires_grad_(True) for name, value in found.items()}
    loss = task.probe_loss(leaves)
    assert loss.shape == () and torch.isfinite(loss)
    loss.backward()
    check_gradients(leaves)


def check_gradients(leaves: dict[str, torch.Tensor]) -> None:
    for leaf in leaves.values():
        assert leaf.grad is not None and torch.isfinite(leaf.grad).all()
        assert leaf.grad.abs().sum() > 0


def test_training_on_a_batch_makes_its_loss_less(task: Task, batch: Batch, model: Any) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    found = []
    for _ in range(5):
        loss = task.losses(task.forward(model, batch.inputs), batch).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[-1] < found[0]


# Metrics


class Ranks:
    """A group of ranks, one in each thread."""

    def __init__(self, count: int) -> None:
        self._barrier = threading.Barrier(count, timeout=60)
        self._given: dict[int, Any] = {}

    def sum(self, values: np.ndarray) -> np.ndarray:
        total: np.ndarray = np.sum(self.gather(values), axis=0)
        return total

    def gather(self, value: Any) -> list[Any]:
        self._given[threading.get_ident()] = value
        self._barrier.wait()
        found = [self._given[rank] for rank in sorted(self._given)]
        self._barrier.wait()
        return found


Part = tuple[Batch, Outputs]


def metrics_of(
    task: Task,
    setup: TaskSetup,
    made: Examples,
    parts: Sequence[Part],
    places: Sequence[Sequence[int]] | None = None,
    ranks: Group = ALONE,
) -> dict[str, Any]:
    """The metrics of all examples, whose states this rank adds up part by part. places: of each
    part's examples among all; the parts are in order where left out."""
    totals, start = Totals(), 0
    for number, (batch, outputs) in enumerate(parts):
        size = len(next(iter(outputs.values())))
        here = np.arange(start, start + size) if places is None else np.array(places[number])
        totals.add(here, task.metric_state(outputs, batch, setup))
        start += size
    empty = task.empty_state(setup.schema)
    gathered = totals.gathered(empty, np.array(made.rows), ranks)
    assert all(value.dtype == np.float64 for value in gathered.sums.values())
    return task.metrics(gathered, setup.schema)


def check_alike(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-3, abs=1e-6), name


def test_the_states_of_single_examples_are_those_of_all(
    task: Task, setup: TaskSetup, model: Any, made: Examples, batch: Batch, outputs: Outputs
) -> None:
    whole = metrics_of(task, setup, made, [(batch, outputs)])
    single = [alone(task, setup, model, example) for example in made.each()]
    parts = [(one, found) for found, one in single]
    check_alike(metrics_of(task, setup, made, parts), whole)
    backward = [[place] for place in reversed(range(len(parts)))]
    check_alike(metrics_of(task, setup, made, parts[::-1], backward), whole)


@pytest.mark.parametrize(
    "share",
    [
        pytest.param(lambda count: [range(count // 2), range(count // 2, count)], id="halves"),
        pytest.param(lambda count: [range(1, count, 2), range(0, count, 2)], id="turns"),
        pytest.param(lambda count: [range(count), range(0)], id="none for one of them"),
    ],
)
def test_the_states_of_two_ranks_are_those_of_all(
    task: Task,
    setup: TaskSetup,
    model: Any,
    made: Examples,
    batch: Batch,
    outputs: Outputs,
    share: Callable[[int], list[range]],
) -> None:
    expected = metrics_of(task, setup, made, [(batch, outputs)])
    group, shares, examples = Ranks(2), share(len(made)), made.each()

    def rank(places: range) -> dict[str, Any]:
        parts: list[Part] = []
        if places:
            found, own = alone_together(task, setup, model, [examples[place] for place in places])
            parts = [(own, found)]
        return metrics_of(task, setup, made, parts, [list(places)] * len(parts), group)

    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(rank, shares):
            check_alike(found, expected)


@dataclass(frozen=True)
class Rank:
    """One rank of a group of two."""

    group: Ranks
    rank: int
    world: int = 2

    def sum(self, values: np.ndarray) -> np.ndarray:
        return self.group.sum(values)

    def gather(self, value: Any) -> list[Any]:
        return self.group.gather(value)


def test_two_ranks_measure_what_one_does(
    task: Task, setup: TaskSetup, model: Any, made: Examples
) -> None:
    group, split = Ranks(2), InMemory(made, task, setup)

    def measured(ranks: Group = ALONE) -> Measured:
        return measure(model, task, setup, split, torch.device("cpu"), 2, ranks, detailed=True)

    expected = measured()
    check_details(task, setup, expected, len(made))
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(measured, (Rank(group, 0), Rank(group, 1))):
            metrics = dict(found.metrics)
            assert metrics.pop("confused", None) == expected.metrics.get("confused")
            check_alike(metrics, {k: v for k, v in expected.metrics.items() if k != "confused"})
            assert len(found.judged) == len(expected.judged)
            assert [j.truth for j in found.judged] == [j.truth for j in expected.judged]
            assert (found.details is None) == (expected.details is None)
            if found.details is None or expected.details is None:
                continue
            np.testing.assert_allclose(found.details.losses, expected.details.losses, atol=1e-4)


def check_details(task: Task, setup: TaskSetup, measured: Measured, examples: int) -> None:
    """Every example has a loss, unless losses couple rows, and the probabilities of the labels
    belong to its prediction."""
    assert (measured.details is None) == task.info.couples_rows
    if measured.details is None:
        return
    losses, shares = measured.details
    assert losses.shape == (examples,) and np.isfinite(losses).all()
    assert (shares is None) == (not task.info.has_labels)
    if shares is not None:
        assert shares.shape == (examples, len(setup.labels))
        np.testing.assert_allclose(shares.sum(1), 1, atol=1e-2)
        sure = [judged.score for judged in measured.judged]
        np.testing.assert_allclose(shares[range(examples), measured.predicted], sure, atol=1e-2)


def alone_together(
    task: Task, setup: TaskSetup, model: Any, examples: list[Example]
) -> tuple[Outputs, Batch]:
    batch = task.collate(setup, examples)
    with torch.inference_mode():
        return task.forward(model, batch.inputs), batch


def test_a_state_has_the_shape_of_the_empty_one(
    task: Task, setup: TaskSetup, model: Any, batch: Batch
) -> None:
    outputs = inferred(task, setup, model, batch.host)
    empty, state = task.empty_state(setup.schema), task.metric_state(outputs, batch, setup)
    assert empty.sums.keys() == state.sums.keys() and empty.each.keys() == state.each.keys()
    assert {name: len(batch.host) for name in empty.parts} == {
        name: len(arrays) for name, arrays in state.parts.items()
    }
    for name, zero in empty.sums.items():
        assert zero.shape == state.sums[name].shape and not zero.any(), name
    for name, none in empty.each.items():
        assert len(none) == 0 and len(state.each[name]) == len(batch.host), name
        assert none.shape[1:] == state.each[name].shape[1:], name
    assert not any(value.requires_grad for part in state[:2] for value in part.values())


def test_metrics_are_json_and_have_what_a_run_is_judged_by(
    task: Task, sample: Sample, setup: TaskSetup, made: Examples, batch: Batch, outputs: Outputs
) -> None:
    found = metrics_of(task, setup, made, [(batch, outputs)])
    assert json.loads(json.dumps(found)) == found
    told = task.info.metrics_of(sample.rows[0])
    assert told.keys() <= found.keys()
    assert all(math.isfinite(found[name]) for name in told)


def test_better_outputs_have_better_metrics(
    task: Task, setup: TaskSetup, model: Any, made: Examples, batch: Batch, outputs: Outputs
) -> None:
    before = metrics_of(task, setup, made, [(batch, outputs)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(20):
        loss = task.losses(task.forward(model, batch.inputs), batch).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        after = metrics_of(task, setup, made, [(batch, task.forward(model, batch.inputs))])
    assert after["loss"] < before["loss"]
    name = task.info.default_metric
    rises = task.info.metrics[name] == "max"
    assert after[name] > before[name] if rises else after[name] < before[name]


def test_examples_are_judged_beside_their_answers(
    task: Task, setup: TaskSetup, model: Any, batch: Batch, outputs: Outputs
) -> None:
    judged = task.judge(outputs, batch, setup)
    assert len(judged) in (0, len(batch.host))
    json.dumps(judged)
    for found in judged:
        assert found.score is None or 0 <= found.score <= 1
        assert found.error >= 0
    for example, together in zip(batch.host, judged, strict=False):
        (single,) = task.judge(*alone(task, setup, model, example), setup)
        assert (single.truth, single.error) == (
            together.truth,
            pytest.approx(together.error, abs=1e-4),
        )


# Answers


def test_the_numbers_of_an_answer_do_not_depend_on_padding(
    task: Task, setup: TaskSetup, model: Any, batch: Batch, outputs: Outputs
) -> None:
    if task.info.generates:
        return  # its golden answers are the probabilities of tokens that it wrote
    for example, row in zip(batch.host, each(outputs), strict=True):
        numbers = task.numbers(row, setup)
        assert numbers.ndim == 1 and len(numbers) and np.isfinite(numbers).all()
        assert np.abs(numbers).max() < 100, "of the order of 1"
        (single,) = each(alone(task, setup, model, example)[0])
        assert task.numbers(single, setup) == pytest.approx(numbers, abs=1e-4)


def test_every_question_has_its_answer(
    task: Task, setup: TaskSetup, model: Any, questions: list[Any]
) -> None:
    answered = [
        [(example, each(inferred(task, setup, model, [example]))[0]) for example in examples]
        for examples in task.encode(setup, questions)
    ]
    if task.info.generates:
        with pytest.raises(NotImplementedError, match=task.info.name):
            task.answers(setup, questions, answered)
        return
    found = task.answers(setup, questions, answered)
    assert len(found) == len(questions) and task.answers(setup, [], []) == []
    assert json.loads(json.dumps(found)) == found
    for answer in found:
        assert tuple(task.outcome(answer)) == task.info.outcome
        assert isinstance(task.summary(answer), str) and task.summary(answer) is not None
    for question, parts, answer in zip(questions, answered, found, strict=True):
        (single,) = task.answers(setup, [question], [parts])
        assert task.summary(single) == task.summary(answer)
    if task.info.ranks:
        for top_k in (1, 2, 99):
            check_ranked(task, found, task.answers(setup, questions, answered, top_k), top_k)


def check_ranked(task: Task, found: list[Any], ranked: list[Any], top_k: int) -> None:
    assert json.loads(json.dumps(ranked)) == ranked
    for answer, best in zip(found, ranked, strict=True):
        if isinstance(answer, list) and answer and isinstance(answer[0], list):
            check_ranked(task, answer, best, top_k)  # a list for each hidden token
            continue
        assert 1 <= len(best) <= top_k
        if isinstance(answer, list):  # of any length: the best are among them, or they among these
            assert best[: len(answer)] == answer[: len(best)]
            continue
        assert best[0] == answer and task.summary(best) == task.summary(answer)
        assert len({task.summary(item) for item in best}) >= min(2, len(best))
