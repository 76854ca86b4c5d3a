"""Each fault of a spec gives one message that names the key, the value and the fix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ftray.errors import SpecError
from ftray.spec.load import parse
from ftray.tasks import TASKS
from tests.helpers.small_spec import TUNE, problems, tree


@pytest.mark.parametrize(
    "changes",
    [
        {"scale.gpus_per_worker": 0},
        {"scale.gpus_per_worker": 1.0},
        {"scale.gpus_per_worker": "auto"},
        {**TUNE, "tune.gpus_per_worker": 0.25},
        {**TUNE, "tune.gpus_per_worker": 1, "tune.workers": 2},
        {"serve.gpus_per_replica": 0.5},
    ],
)
def test_gpus_that_a_process_can_use(changes: dict[str, Any]) -> None:
    parse(tree(changes))


def space(path: str, domain: Any, **more: Any) -> dict[str, Any]:
    return {"tune.space": {path: domain}, **more}


# (changes, key, value shown, words of the problem, words of the fix)
FAULTS: dict[str, tuple[dict[str, Any], str, str, str, str]] = {
    "unknown section": ({"trian": {}}, "trian", "{}", "unknown key", "Did you mean train?"),
    "unknown key": (
        {"train.learning_rte": 1}, "train.learning_rte", "1",
        "unknown key", "Did you mean train.learning_rate?",
    ),
    "unknown key like no other": (
        {"train.zzz": 1}, "train.zzz", "1", "unknown key", "Known keys: epochs, batch_size",
    ),
    "unknown key two sections down": (
        {"data.columns": {"txt": "a"}}, "data.columns.txt", "a",
        "unknown key", "Did you mean data.columns.text?",
    ),
    "unknown key in a section that may be a path": (
        {"train.deepspeed": {"stge": 2}}, "train.deepspeed.stge", "2",
        "unknown key", "Did you mean train.deepspeed.stage?",
    ),
    "missing key": ({"model": {}}, "model.name_or_path", "", "missing", "Add model.name_or_path"),
    "section is a word": ({"model": "x"}, "model", "x", "section of keys", "name_or_path"),
    "section is empty": ({"train": None}, "train", "", "section of keys", "epochs"),
    "section is a list": ({"train": [1]}, "train", "[1]", "section of keys", "epochs"),
    "word for a number": (
        {"train.epochs": "x"}, "train.epochs", "x", "whole number", "For example 3.",
    ),
    "fraction for a count": ({"train.epochs": 2.5}, "train.epochs", "2.5", "whole number", ""),
    "yes for a number": (
        {"train.epochs": True}, "train.epochs", "true", "a number, not true or false", "",
    ),
    "zero epochs": ({"train.epochs": 0}, "train.epochs", "0", "above 0", ""),
    "not a number": (
        {"train.learning_rate": float("nan")}, "train.learning_rate", "nan", "finite", "",
    ),
    "negative rate": (
        {"train.learning_rate": -1e-3}, "train.learning_rate", "-0.001", "above 0", "",
    ),
    "warm-up above the run": ({"train.warmup": 1}, "train.warmup", "1", "below 1", "Share"),
    "neither count nor all": (
        {"train.unfreeze": "two"}, "train.unfreeze", "two", "one of head, all", "0 = head only",
    ),
    "negative count": (
        {"train.unfreeze": -1}, "train.unfreeze", "-1",
        "0 or more, a list, or one of head", "0 = head only",
    ),
    "neither count nor auto": (
        {"train.micro_batch_size": "aut"}, "train.micro_batch_size", "aut",
        "a whole number, or auto", "forward",
    ),
    "no such stage": (
        {"train.deepspeed": {"stage": 4}}, "train.deepspeed.stage", "4",
        "one of 0, 1, 2, 3", "ZeRO",
    ),
    "number for stage or path": (
        {"train.deepspeed": 3}, "train.deepspeed", "3",
        "a section of keys, or text", "{stage: 0-3}",
    ),
    "no such schedule": (
        {"train.schedule": "step"}, "train.schedule", "step", "one of auto, linear, cosine", "",
    ),
    "no such task": ({"task": "summarize"}, "task", "summarize", "text-classification", ""),
    "name with capitals": (
        {"name": "My Model"}, "name", "My Model", "lower-case", "Did you mean my-model?",
    ),
    "name too long": ({"name": "m" * 48}, "name", "m" * 48, "at most 47", "mm?"),
    "name ends in a dash": ({"name": "m-"}, "name", "m-", "lower-case", "Did you mean m?"),
    "empty text": ({"storage": " "}, "storage", "", "text that is not empty", "Storage root"),
    "share above one": (
        {"data.test": 1.5}, "data.test", "1.5", "at most 1, or text", "share of `train`",
    ),
    "share of nothing": ({"data.test": 0}, "data.test", "0", "above 0", "share of `train`"),
    "smoothing everything away": (
        {"train.label_smoothing": 1}, "train.label_smoothing", "1", "below 1", "training only",
    ),
    "dropping everything": ({"train.dropout": 1.0}, "train.dropout", "1.0", "below 1", "null"),
    "dropping less than nothing": (
        {"train.token_dropout": -0.1}, "train.token_dropout", "-0.1", "0 or more", "left out",
    ),
    "no such balance": (
        {"train.balance": "oversample"}, "train.balance", "oversample", "one of weights, sampling",
        "rare labels",
    ),
    "patience missing": (
        {"train.early_stopping": {}}, "train.early_stopping.patience", "", "missing", "Add train.e",
    ),
    "no worker": ({"scale.workers": 0}, "scale.workers", "0", "above 0", "Data-parallel"),
    "negative wait": (
        {"serve.batch": {"wait_ms": -1}}, "serve.batch.wait_ms", "-1", "0 or more", "How long",
    ),
    "key that is a number": ({"1": {}}, "1", "{}", "unknown key", "Known keys"),
    # Contradictions.
    "shares that leave nothing": (
        {"data.validation": 0.6, "data.test": 0.5}, "data", "",
        "1.1 of the rows", "Lower data.validation or data.test",
    ),
    "workers without rows": (
        {"train.batch_size": 2, "scale.workers": 4}, "train.batch_size", "2",
        "4 scale.workers", "Raise train.batch_size",
    ),
    "micro batches above the batch": (
        {"train.micro_batch_size": 20, "scale.workers": 2}, "train.micro_batch_size", "20",
        "above train.batch_size 32", "or write auto",
    ),
    "offload without sharding": (
        {"train.deepspeed": {"stage": 0, "offload": "cpu"}}, "train.deepspeed.stage", "0",
        "offload: cpu needs ZeRO stage 1", "train.deepspeed.offload to none",
    ),
    "offload to disk below stage 3": (
        {"train.deepspeed": {"offload": "nvme", "nvme_path": "/x"}}, "train.deepspeed.stage", "2",
        "offload: nvme needs ZeRO stage 3", "train.deepspeed.stage to 3",
    ),
    "offload to no disk": (
        {"train.deepspeed": {"stage": 3, "offload": "nvme"}}, "train.deepspeed.offload", "nvme",
        "train.deepspeed.nvme_path go together", "Name a folder",
    ),
    "a disk and no offload": (
        {"train.deepspeed": {"nvme_path": "/x"}}, "train.deepspeed.offload", "none",
        "train.deepspeed.nvme_path go together", "leave out both",
    ),
    "checkpointing that is a word": (
        {"train.gradient_checkpointing": "blocks"}, "train.gradient_checkpointing", "blocks",
        "true or false", "",
    ),
    "fewest replicas above most": (
        {"serve.replicas": {"min": 4, "max": 1}}, "serve.replicas", "",
        "min 4 is above max 1", "Raise max",
    ),
    "a precision that the backend does not have": (
        {"serve.precision": "int8"}, "serve", "", "torch does not compute in int8", "fp32 or bf16",
    ),
    "onnx on a GPU": (
        {"serve.backend": "onnx", "serve.gpus_per_replica": 1}, "serve", "",
        "onnx makes no use of serve.gpus_per_replica 1", "the other to 0",
    ),
    "half a GPU for a worker": (
        {"scale.gpus_per_worker": 0.5}, "scale.gpus_per_worker", "0.5",
        "NCCL refuses two workers on one GPU", "Set 0, 1 or auto",
    ),
    "two GPUs for a worker": (
        {"scale.gpus_per_worker": 2}, "scale.gpus_per_worker", "2",
        "a worker computes on one device", "scale.workers to the number of GPUs",
    ),
    "two GPUs for a trial's worker": (
        {**TUNE, "tune.gpus_per_worker": 2}, "tune.gpus_per_worker", "2",
        "a worker computes on one device", "raise tune.workers",
    ),
    "half a GPU for each of a trial's workers": (
        {**TUNE, "tune.gpus_per_worker": 0.5, "tune.workers": 2, "train.batch_size": 2},
        "tune.gpus_per_worker", "0.5", "NCCL refuses two of the 2", "tune.workers to 1",
    ),
    "two GPUs for a replica": (
        {"serve.gpus_per_replica": 2}, "serve.gpus_per_replica", "2",
        "a replica computes on one device", "raise serve.replicas",
    ),
    "a context that the cache has no room for": (
        {"serve.max_context": 2048, "serve.cache_tokens": 1024}, "serve", "",
        "serve.cache_tokens 1024 has no room for a whole context of serve.max_context 2048",
        "Raise the one",
    ),
    "onnx for a generator": (
        {"task": "text-generation", "serve.backend": "onnx"}, "serve.backend", "onnx",
        "the task is text-generation", "Set torch",
    ),
    # The search space.
    "no space": ({"tune": {}}, "tune.space", "", "missing", "Add tune.space"),
    "empty space": ({"tune.space": {}}, "tune.space", "", "at least 1 value", ""),
    "path that is no key": (
        space("train.learning_rte", {"choice": [1]}), "tune.space.train.learning_rte", "1",
        "unknown key", "Did you mean train.learning_rate?",
    ),
    "path without its section": (
        space("learning_rate", {"choice": [1]}), "tune.space.learning_rate", "",
        "not a key a trial can change", "Did you mean train.learning_rate?",
    ),
    "path below a value": (
        space("train.epochs.x", {"choice": [1]}), "tune.space.train.epochs.x", "1",
        "not a section", "train.epochs",
    ),
    "scale of a trial": (
        space("scale.workers", {"choice": [1]}), "tune.space.scale.workers", "",
        "not a key a trial can change", "Any key of train",
    ),
    "data of a trial": (
        space("data.max_length", {"choice": [32, 64]}), "tune.space.data.max_length", "",
        "not a key a trial can change", "Any key of train",
    ),
    "base model of a trial": (
        space("model.name_or_path", {"choice": ["a", "b"]}), "tune.space.model.name_or_path", "",
        "not a key a trial can change", "Any key of train",
    ),
    "two kinds of domain": (
        space("train.epochs", {"choice": [1], "randint": [1, 2]}), "tune.space.train.epochs", "",
        "2 kinds", "exactly one",
    ),
    "no kind of domain": (space("train.epochs", {}), "tune.space.train.epochs", "", "0 kinds", ""),
    "unknown kind of domain": (
        space("train.epochs", {"choise": [1]}), "tune.space.train.epochs.choise", "[1]",
        "unknown key", "choice",
    ),
    "falling bounds": (
        space("train.learning_rate", {"uniform": [2, 1]}), "tune.space.train.learning_rate", "",
        "2.0 is not below the second 1.0", "rising order",
    ),
    "logarithm of zero": (
        space("train.learning_rate", {"loguniform": [0, 1]}),
        "tune.space.train.learning_rate.loguniform.0", "0", "above 0", "",
    ),
    "no choices": (
        space("train.epochs", {"choice": []}), "tune.space.train.epochs.choice", "[]",
        "1 value", "",
    ),
    "a choice that the key refuses": (
        space("train.epochs", {"choice": [1, 0]}), "tune.space.train.epochs", "0",
        "above 0", "",
    ),
    "a bound that the key refuses": (
        space("train.warmup", {"uniform": [0.5, 1.5]}), "tune.space.train.warmup", "1.5",
        "below 1", "Share of the steps",
    ),
    "fractions between whole bounds": (
        space("train.epochs", {"uniform": [1, 3]}), "tune.space.train.epochs", "1.73",
        "whole number", "",
    ),
    "a choice too small for a trial's workers": (
        space("train.batch_size", {"choice": [2, 1]}, **{"tune.workers": 2}),
        "tune.space.train.batch_size", "1", "gives some of the 2 scale.workers no rows", "Raise",
    ),
    "a choice too small for the winner's workers": (
        space("train.batch_size", {"choice": [2, 8]}, **{"scale.workers": 4}),
        "tune.space.train.batch_size", "2", "gives some of the 4 scale.workers no rows", "Raise",
    ),
    "a micro batch too large for a trial's workers": (
        {**TUNE, "tune.workers": 3, "train.batch_size": 16, "train.micro_batch_size": 8},
        "train.micro_batch_size", "8", "above train.batch_size 16 (in a trial", "Lower",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_names_key_value_and_fix(fault: str) -> None:
    changes, key, value, problem, fix = FAULTS[fault]
    (found,) = problems(changes)
    assert found.key == key
    assert found.value.startswith(value)
    assert bool(found.value) == bool(value)
    assert problem in found.problem
    assert fix in found.fix
    assert found.fix.strip(), "every fault says what would do"


def test_each_of_several_faults_is_told_once() -> None:
    found = problems(
        {
            "name": "My",
            "data.validation": 2,
            "train.epochs": "x",
            "train.learning_rte": 1,
            "train.deepspeed": {"stage": 9},
            "serve.replicas": {"min": 4, "max": 1},
        }
    )
    keys = [problem.key for problem in found]
    assert sorted(keys) == [
        "data.validation",
        "name",
        "serve.replicas",
        "train.deepspeed.stage",
        "train.epochs",
        "train.learning_rte",
    ]


def test_each_fault_of_the_search_space_is_told() -> None:
    faulty = {"train.epochs": {"choice": [0]}, "epochs": {"choice": [1]}, "seed": {"choice": [1]}}
    keys = [problem.key for problem in problems({"tune.space": faulty})]
    assert sorted(keys) == ["tune.space.epochs", "tune.space.train.epochs"]


def test_what_the_space_replaces_need_not_suit_a_trial() -> None:
    parse(tree({**TUNE, "tune.workers": 4, "train.batch_size": 4}))
    few = {"tune.workers": 4, "train.batch_size": 2}
    assert problems({**TUNE, **few})[0].key == "train.batch_size"
    parse(tree({"tune.space": {"train.batch_size": {"choice": [8, 16]}}, **few}))


def test_many_faults_are_cut(file: Path) -> None:
    with pytest.raises(SpecError) as caught:
        parse(tree({"train.unfreeze": ["("] * 500}))
    assert len(caught.value.problems) == 500
    assert str(caught.value).splitlines()[-1] == "and 480 more faults"


@pytest.mark.parametrize("task", TASKS)
def test_a_spec_without_data_is_told_so(task: str) -> None:
    """The defaults of a task do not make a section that the user has to write."""
    with pytest.raises(SpecError) as told:
        parse({"name": "a", "task": task, "model": {"name_or_path": "x"}})
    assert [problem.key for problem in told.value.problems] == ["data"]


@pytest.mark.parametrize("task", TASKS)
def test_a_spec_without_a_model_is_told_of_one_for_its_task(task: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse({"name": "m", "task": task, "data": {"train": "a.csv"}})
    fixes = [problem.fix for problem in caught.value.problems if problem.key == "model"]
    assert fixes and TASKS[task].info.starter.model in fixes[0]
