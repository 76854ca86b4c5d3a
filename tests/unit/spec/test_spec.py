"""From YAML and overrides to a spec, or to one message per fault that names the key and the fix."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from ftray.errors import Problem, SpecError
from ftray.spec import synonyms
from ftray.spec.load import dump, load, override, parse
from ftray.spec.paths import paths
from ftray.spec.schema import Spec, micro_batch_size
from ftray.spec.sections.training import DeepSpeedSpec
from ftray.tasks import TASKS

TEXT = "name: m\nmodel: {name_or_path: x}\ndata: {train: a.csv}\n"
SMALL = {"name": "m", "model": {"name_or_path": "x"}, "data": {"train": "a.csv"}}
TUNE = {"tune.space": {"train.epochs": {"choice": [1, 2]}}}


def tree(changes: dict[str, Any]) -> dict[str, Any]:
    """The smallest spec with values put at SECTION.KEY, or whole sections."""
    result: dict[str, Any] = copy.deepcopy(SMALL)
    for path, value in changes.items():
        *sections, last = path.split(".")
        node = result
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = value
    return result


def problems(changes: dict[str, Any]) -> tuple[Problem, ...]:
    with pytest.raises(SpecError) as caught:
        parse(tree(changes))
    return caught.value.problems


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


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(TEXT)
    return path


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


@pytest.mark.parametrize(
    ("item", "path", "value"),
    [
        ("train.learning_rate=2e-5", "train.learning_rate", 2e-5),
        ("train.learning_rate=3", "train.learning_rate", 3.0),
        ("data.validation=2e-1", "data.validation", 0.2),
        ("data.validation=held-out.csv", "data.validation", "held-out.csv"),
        ("data.columns.text=review=body", "data.columns.text", "review=body"),
        ("train.clip=null", "train.clip", None),
        ("train.unfreeze=all", "train.unfreeze", "all"),
        ("train.unfreeze=0", "train.unfreeze", 0),
        ("train.deepspeed={stage: 3}", "train.deepspeed.stage", 3),
        ("train.deepspeed.stage=1", "train.deepspeed.stage", 1),
        ("train.early_stopping.patience=4", "train.early_stopping.patience", 4),
        ("name=other", "name", "other"),
        (" name =other", "name", "other"),
        ("tune.trials=3", "tune.trials", 3),
        ("serve.batch.max_size=4", "serve.batch.max_size", 4),
    ],
)
def test_set_overrides_a_key(file: Path, item: str, path: str, value: Any) -> None:
    file.write_text(TEXT + "tune: {space: {train.epochs: {choice: [1, 2]}}}\n")
    spec: Any = load(file, [item])
    for name in path.split("."):
        spec = getattr(spec, name)
    assert spec == value
    assert type(spec) is type(value)


def test_set_gives_lists_and_the_search_space(file: Path) -> None:
    spec = load(
        file,
        [
            "tune.space={train.epochs: {choice: [1, 2]}}",
            "tune.space.train.learning_rate={loguniform: [1e-5, 1e-3]}",
            "tune.space.train.epochs={choice: [3]}",
        ],
    )
    assert spec.tune is not None
    assert spec.tune.space["train.learning_rate"].values == (1e-5, 1e-3)
    assert spec.tune.space["train.epochs"].values == (3,)


def test_the_last_of_two_overrides_wins(file: Path) -> None:
    assert load(file, ["train.epochs=2", "train.epochs=5"]).train.epochs == 5


@pytest.mark.parametrize(
    ("item", "key", "problem"),
    [
        ("train.epochs", "--set", "not KEY=VALUE"),
        ("=3", "--set", "not KEY=VALUE"),
        ("train.epochs={a: 1", "train.epochs", "whole number"),
        ("name.first=x", "name.first", "name is not a section"),
        ("train.epoch=3", "train.epoch", "unknown key"),
        ("train.epochs=", "train.epochs", "whole number"),
    ],
)
def test_a_wrong_override_is_refused(file: Path, item: str, key: str, problem: str) -> None:
    with pytest.raises(SpecError) as caught:
        load(file, [item])
    assert caught.value.problems[0].key == key
    assert problem in caught.value.problems[0].problem


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not a mapping"),
        (b"- a\n- b\n", "not a mapping"),
        (b"just words", "not a mapping"),
        (b"name: [1\n", "line 2"),
        (b"name: m\n\tdata: x\n", "not YAML"),
        (b"name: m\nname: n\n", "the key name is given twice"),
        (b"name: m\ntrain:\n  epochs: 1\n  epochs: 2\n", "the key epochs is given twice"),
        (b"name: \xe9\n", "not UTF-8"),
        (b"name: \x00\n", "not YAML"),
        (b"name: !!python/object:os.system x\n", "not YAML"),
    ],
)
def test_a_file_that_is_no_yaml_mapping_is_refused(
    file: Path, content: bytes, problem: str
) -> None:
    file.write_bytes(content)
    with pytest.raises(SpecError) as caught:
        load(file)
    assert caught.value.problems[0].key == str(file)
    assert problem in caught.value.problems[0].problem


@pytest.mark.parametrize(
    ("name", "problem"), [("no-such.yaml", "no such spec file"), (".", "directory")]
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, problem: str) -> None:
    with pytest.raises(SpecError) as caught:
        load(tmp_path / name)
    (found,) = caught.value.problems
    assert found.key == str(tmp_path / name)
    assert problem in found.problem


def test_numbers_are_read_as_people_write_them(file: Path) -> None:
    file.write_text(
        TEXT + "train: {learning_rate: 2e-5, weight_decay: 1E-2}\n"
        "tune: {space: {train.learning_rate: {choice: [2e-5, 1.5e-4, 1e-3]}}}\n"
    )
    spec = load(file)
    assert spec.train.learning_rate == 2e-5
    assert spec.train.weight_decay == 0.01
    assert spec.tune is not None
    assert spec.tune.space["train.learning_rate"].values == (2e-5, 1.5e-4, 1e-3)


def test_words_stay_words_and_quoted_numbers_are_numbers(file: Path) -> None:
    file.write_text(
        "name: 2020-01-01\nmodel: {name_or_path: x}\n"
        "data: {train: 12:30, columns: {text: no, label: 010}, validation: '0.2'}\n"
        "train: {epochs: '4', learning_rate: '1e-4', deepspeed: {stage: '1'}, baselines: 'off'}\n"
    )
    spec = load(file)
    assert (spec.name, spec.data.train) == ("2020-01-01", "12:30")
    assert (spec.data.columns.text, spec.data.columns.label) == ("no", "010")
    assert spec.data.validation == 0.2
    assert (spec.train.epochs, spec.train.learning_rate) == (4, 1e-4)
    assert isinstance(spec.train.deepspeed, DeepSpeedSpec)
    assert (spec.train.deepspeed.stage, spec.train.baselines) == (1, False)


def test_choices_are_read_as_their_keys_read_them() -> None:
    space = {
        "train.learning_rate": {"choice": ["1e-4", 1]},
        "train.epochs": {"choice": ["2", 3.0]},
        "train.unfreeze": {"choice": ["2", "all", ["a"]]},
        "train.baselines": {"choice": ["yes", "false"]},
        "train.warmup": {"uniform": ["0.1", "0.5"]},
        "seed": {"randint": ["1", "3"]},
    }
    tune = parse(tree({"tune.space": space})).tune
    assert tune is not None
    values = {path: domain.values for path, domain in tune.space.items()}
    assert values == {
        "train.learning_rate": (1e-4, 1.0),
        "train.epochs": (2, 3),
        "train.unfreeze": (2, "all", ["a"]),
        "train.baselines": (True, False),
        "train.warmup": (0.1, 0.5),
        "seed": (1, 3),
    }
    kinds = {path: {type(value) for value in found} for path, found in values.items()}
    assert kinds["train.learning_rate"] == {float}
    assert kinds["train.epochs"] == kinds["seed"] == {int}


MULTI_LABEL = "multi-label-classification"
SYNONYMS = {
    "train.lr": "train.learning_rate",
    "lr": "train.learning_rate",
    "train.bs": "train.batch_size",
    "batch": "train.batch_size",
    "epochs": "train.epochs",
    "train.epoch": "train.epochs",
    "train.wd": "train.weight_decay",
    "train.seed": "seed",
    "train.model": "model.name_or_path",
    "model.name": "model.name_or_path",
    "train.lora_r": "train.lora.rank",
    "max_len": "data.max_length",
    "train.max_length": "data.max_length",
    "train.workers": "scale.workers",
    "data.label": "data.columns.label",
    "data.labels": "data.columns.label",
    "train.lrr": "train.learning_rate",
    "data.question": "data.columns.question",
    "tune.num_samples": "tune.trials",
    "serve.bacth": "serve.batch",
    "train.batchSize": "train.batch_size",
}


@pytest.mark.parametrize("key", SYNONYMS)
def test_the_key_that_was_meant_is_named(key: str) -> None:
    fixes = {found.key: found.fix for found in problems({key: 1})}
    assert fixes[key] == f"Did you mean {SYNONYMS[key]}?"


def test_columns_of_the_task_are_meant_first() -> None:
    told = {found.key: found.fix for found in problems({"data.labels": 1, "task": MULTI_LABEL})}
    assert told["data.labels"] == "Did you mean data.columns.labels?"


def test_every_synonym_stands_for_a_key() -> None:
    every = set(paths(Spec))
    assert not [key for key in synonyms.SYNONYMS.values() if key not in every]
    assert not [word for word in synonyms.SYNONYMS if word.casefold() != word]


def test_a_long_list_of_keys_is_cut() -> None:
    (found,) = problems({"train.zzz": 1})
    assert found.fix.endswith("more (see `ftray schema`).")
    assert len(found.fix) < 200


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 10)
)

NO_VALUES = {
    "nine levels of aliases": (BOMB, "100,000 values"),
    "a merge of merges": (BOMB.replace("[", "{<<: [").replace("]", "]}"), "values"),
    "an alias in its own anchor": ("name: &a [*a]\n", "alias within its anchor"),
    "nested deep": ("name: " + "[" * 9000, "levels deep"),
    "nested deep in blocks": ("".join(" " * n + "a:\n" for n in range(900)), "levels deep"),
    "a word for a number": ("name: !!int abc\n", "abc is no int"),
    "a word for a switch": ("name: !!bool abc\n", "abc is no bool"),
    "five thousand digits": (f"seed: {'9' * 5000}\n", "is no int"),
    "a type of Python's": ("name: !!python/name:os.system\n", "no place in a spec"),
    "bytes": ("name: !!binary aGk=\n", "no place in a spec"),
    "a list for a key": ("{[a]: b}\n", "unhashable"),
    "two documents": ("name: a\n---\nname: b\n", "single document"),
    "no such alias": ("name: *nowhere\n", "nowhere"),
    "megabytes": ("#" * (2 << 20), "larger than a spec"),
}


@pytest.mark.parametrize("content", NO_VALUES)
def test_what_is_no_spec_is_refused_in_one_short_line(file: Path, content: str) -> None:
    text, said = NO_VALUES[content]
    file.write_text(text)
    with pytest.raises(SpecError) as caught:
        load(file)
    line = str(caught.value)
    assert said in line
    assert len(line.splitlines()) == 1
    assert len(line) < 600 + len(str(file))


def test_a_byte_order_mark_is_no_part_of_a_spec(file: Path) -> None:
    for encoding in ("utf-8-sig", "utf-16"):
        file.write_text(TEXT, encoding=encoding)
        assert load(file).name == "m"


def test_many_faults_are_cut(file: Path) -> None:
    with pytest.raises(SpecError) as caught:
        parse(tree({"train.unfreeze": ["("] * 500}))
    assert len(caught.value.problems) == 500
    assert str(caught.value).splitlines()[-1] == "and 480 more faults"


@pytest.mark.parametrize(
    ("there", "asked", "fix"),
    [
        ("ftray.yaml", "ftray.yml", "Did you mean {}/ftray.yaml?"),
        ("movie.yaml", "movie", "Did you mean {}/movie.yaml?"),
        ("movie.yaml", "moive.yaml", "Did you mean {}/movie.yaml?"),
        ("movie.yaml", "other.yaml", "Name one, or write one with `ftray init`."),
        ("spec.csv", "spec.yaml", "Name one, or write one with `ftray init`."),
    ],
)
def test_a_spec_nearby_is_named_if_it_is_close(
    tmp_path: Path, there: str, asked: str, fix: str
) -> None:
    (tmp_path / there).write_text(TEXT)
    with pytest.raises(SpecError) as caught:
        load(tmp_path / asked)
    assert caught.value.problems[0].fix == fix.format(tmp_path)


def test_merge_keys_of_yaml_work(file: Path) -> None:
    file.write_text(
        "name: m\nmodel: {name_or_path: x}\n"
        "data: {train: a.csv}\n"
        "train: {<<: {epochs: 1, batch_size: 8}, epochs: 5}\n"
    )
    spec = load(file)
    assert (spec.train.epochs, spec.train.batch_size) == (5, 8)


def full() -> Spec:
    return parse(
        tree(
            {
                "storage": "s3://bucket/prefix",
                "train.clip": None,
                "train.unfreeze": "all",
                "train.early_stopping": {"patience": 2, "min_delta": 0.01},
                "scale.workers": 2,
                "tune.space": {
                    "train.learning_rate": {"loguniform": [1e-5, 1e-3]},
                    "train.unfreeze": {"choice": [0, "all"]},
                    "train.epochs": {"randint": [1, 3]},
                    "train.warmup": {"uniform": [0, 0.5]},
                },
            }
        )
    )


@pytest.mark.parametrize("spec", [parse(SMALL), full()], ids=["smallest", "full"])
def test_a_spec_survives_writing_and_reading(spec: Spec, file: Path) -> None:
    assert override(spec, {}) == spec
    file.write_text(dump(spec))
    assert load(file) == spec
    assert Spec.model_validate_json(spec.model_dump_json()) == spec


def test_an_override_leaves_its_spec_as_it_was() -> None:
    before = full()
    after = override(before, {"train.epochs": 7, "scale.workers": 1, "train.unfreeze": 0})
    assert before == full()
    assert (after.train.epochs, after.scale.workers, after.train.unfreeze) == (7, 1, 0)
    assert after.tune == before.tune


def test_an_override_is_checked_against_the_whole_spec() -> None:
    with pytest.raises(SpecError) as caught:
        override(full(), {"train.batch_size": 1})
    assert caught.value.problems[0].key == "train.batch_size"


def test_a_spec_never_changes() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse(SMALL).train.epochs = 9  # type: ignore[misc]


def test_the_metric_says_which_way_is_better() -> None:
    assert parse(tree({"train.metric": "loss"})).train.metric_mode == "min"
    assert parse(tree({"train.metric": "accuracy"})).train.metric_mode == "max"


@pytest.mark.parametrize(
    ("batch", "workers", "size"),
    [(32, 1, 32), (32, 2, 16), (33, 1, 17), (64, 1, 32), (64, 2, 32), (100, 3, 17), (1, 1, 1)],
)
def test_auto_spreads_the_batch_evenly_over_forward_passes(
    batch: int, workers: int, size: int
) -> None:
    spec = parse(tree({"train.batch_size": batch, "scale.workers": workers}))
    assert micro_batch_size(spec, workers) == size


def test_a_micro_batch_that_was_set_stays() -> None:
    spec = parse(tree({"train.micro_batch_size": 5}))
    assert [micro_batch_size(spec, workers) for workers in (1, 2, 6)] == [5, 5, 5]


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
