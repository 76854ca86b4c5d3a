"""What a run's workers would refuse is found before: in the plan, and in a model's files, whatever
a stranger has put into them."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ftray.errors import FtrayError, ModelError
from ftray.models.pretrained import check_pretrained, find_pretrained
from ftray.spec.load import parse
from ftray.spec.schema import Spec
from ftray.tasks import get_task
from ftray.tasks.schema import Schema
from ftray.train.memory.dry_run import dry_run
from tests.helpers.models.tiny_generator import make_base

SCHEMA = Schema(labels=("bad", "good"))
SPACE = {"space": {"train.warmup": {"choice": [0.1]}}}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "model")


def make_spec(
    folder: Path, tune: Any = None, task: str = "text-classification", **train: Any
) -> Spec:
    return parse(
        {
            "name": "m",
            "task": task,
            "model": {"name_or_path": str(folder)},
            "data": {"train": "rows.jsonl", "max_length": 32},
            "train": train,
            "tune": tune,
        }
    )


# (train, tune, key, what is said)
PLANS: dict[str, tuple[dict[str, Any], dict[str, Any] | None, str, str]] = {
    "more blocks than there are": ({"unfreeze": 12}, None, "train.unfreeze", "3 blocks"),
    "a phase with more": (
        {"unfreeze": [{"epoch": 0, "blocks": 9}]}, None, "train.unfreeze", "3 blocks",
    ),
    "a pattern of nothing": ({"unfreeze": ["nowhere"]}, None, "train.unfreeze", "matches no param"),
    "a group of nothing": (
        {"groups": [{"match": "nowhere"}]}, None, "train.groups.0.match", "matches no parameter",
    ),
    "adapters in more blocks": (
        {"unfreeze": 12, "lora": {"rank": 2}}, None, "train.unfreeze", "3 blocks",
    ),
    "adapters on no layer": (
        {"lora": {"rank": 2, "targets": "nowhere"}}, None, "train.lora.targets", "",
    ),
    "a trial with more blocks": (
        {"unfreeze": 1}, {"space": {"train.unfreeze": {"choice": [1, "12"]}}},
        "tune.space.train.unfreeze", "3 blocks",
    ),
    "a range that ends above": (
        {"unfreeze": 1}, {"space": {"train.unfreeze": {"randint": [0, 9]}}},
        "tune.space.train.unfreeze", "3 blocks",
    ),
    "a trial with adapters on no layer": (
        {}, {"space": {"train.lora.targets": {"choice": ["auto", "nowhere"]}}},
        "tune.space.train.lora.targets", "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("plan", PLANS)
def test_a_plan_that_the_model_does_not_take_is_refused(plan: str, base: Path) -> None:
    train, tune, key, said = PLANS[plan]
    with pytest.raises(FtrayError) as caught:
        dry_run(make_spec(base, tune, **train), SCHEMA)
    (problem,) = caught.value.problems
    assert problem.key == key
    assert said in problem.problem


@pytest.mark.parametrize(
    "train",
    [
        {"unfreeze": 3},
        {"unfreeze": "all"},
        {"unfreeze": "gradual"},
        {"unfreeze": "top-quarter", "lora": {"rank": 2}},
        {"groups": [{"match": "norm"}], "layer_decay": 0.5},
    ],
)
@pytest.mark.parametrize("task", ["text-classification", "text-generation"])
def test_a_plan_that_the_model_takes_passes(train: dict[str, Any], task: str, base: Path) -> None:
    dry_run(make_spec(base, SPACE, task, **train), SCHEMA)


class Evil:
    """Makes a folder where it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def _config(**changes: Any) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return make


def _file(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def _weights(name: str, content: bytes) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(content)

    return make


DEEP = b"[" * 100_000
INDEX = "model.safetensors.index.json"
HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "config is a list": (_file("config.json", b"[]"), "a list, not an object"),
    "config is a word": (_file("config.json", b'"x"'), "not an object"),
    "config is null": (_file("config.json", b"null"), "not an object"),
    "config is empty": (_file("config.json", b""), "not JSON"),
    "config ends early": (_file("config.json", b'{"a": '), "not JSON"),
    "config is Latin-1": (_file("config.json", b'{"a": "\xe9"}'), "not UTF-8"),
    "config is deep": (_file("config.json", DEEP), "nested too deeply"),
    "config has 5,000 digits": (_file("config.json", b"[" + b"9" * 5000), "not JSON"),
    "hidden size is a word": (_config(hidden_size="x"), "hidden_size"),
    "no heads": (_config(num_attention_heads=0), ""),
    "layers are a word": (_config(num_hidden_layers="x"), "num_hidden_layers"),
    "vocabulary below nothing": (_config(vocab_size=-5), "negative"),
    "unknown family": (_config(model_type="zzz"), "zzz"),
    "family is a list": (_config(model_type=["llama"]), ""),
    "family with code of its own": (
        _config(model_type="zzz", auto_map={"AutoConfig": "evil.Evil"}), "custom code",
    ),
    "no such activation": (_config(hidden_act="nope"), "nope"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
    "weights are empty": (_file("model.safetensors", b""), "cannot be read"),
    "weights are noise": (_file("model.safetensors", b"x" * 999), "cannot be read"),
    "weights say a huge header": (
        _file("model.safetensors", (2**60).to_bytes(8, "little") + b"{}"), "cannot be read",
    ),
    "weights are noise in a pickle's name": (_weights("pytorch_model.bin", b"x"), "cannot be read"),
    "a shard is missing": (_weights(INDEX, b'{"weight_map": {"a": "b.bin"}}'), "not there"),
    "the index is a list": (_weights(INDEX, b"[]"), "cannot be read"),
    "the index names no names": (_weights(INDEX, b'{"weight_map": {"a": [1]}}'), "cannot be read"),
    "tokenizer is a list": (_file("tokenizer.json", b"[]"), "tokenizer"),
    "tokenizer ends early": (_file("tokenizer.json", b'{"version"'), "tokenizer"),
    "tokenizer is deep": (_file("tokenizer.json", DEEP), "nested too deeply"),
    "tokenizer is no text": (_file("tokenizer.json", b"\xff"), "not UTF-8"),
    "tokenizer's config is a list": (_file("tokenizer_config.json", b"[]"), "tokenizer"),
    "tokenizer's class is a number": (
        _file("tokenizer_config.json", b'{"tokenizer_class": 3}'), "tokenizer",
    ),
    "padding is a number": (_file("tokenizer_config.json", b'{"pad_token": 3}'), "tokenizer"),
}  # fmt: skip


def _refusal(check: Callable[[], object]) -> str:
    with pytest.raises(ModelError) as caught:
        check()
    return str(caught.value)


def _load(spec: Spec) -> None:
    """As a worker does."""
    check_pretrained(spec.model, spec.data.max_length)
    found = find_pretrained(spec.model)
    found.processor(spec.info)
    found.model(get_task(spec.task), SCHEMA, seed=0)


@pytest.mark.parametrize("case", HOSTILE)
def test_a_folder_that_cannot_be_loaded_is_refused_before_as_in_the_run(
    case: str, base: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(base, folder)
    make, said = HOSTILE[case]
    make(folder)
    spec = make_spec(folder, unfreeze=1)

    def check() -> None:
        check_pretrained(spec.model, spec.data.max_length)
        dry_run(spec, SCHEMA)

    line = _refusal(check)
    assert said in line
    assert line.startswith(f"model.name_or_path = {folder}")
    assert len(line.splitlines()) == 1
    assert len(line) < 1500
    assert _refusal(lambda: _load(spec)) == line


def test_a_pickle_is_refused_and_not_run(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(base, folder)
    _weights("pytorch_model.bin", pickle.dumps(Evil(tmp_path / "evil")))(folder)
    spec = make_spec(folder, unfreeze=1)
    line = _refusal(lambda: dry_run(spec, SCHEMA))
    assert "pytorch_model.bin cannot be read" in line
    assert _refusal(lambda: _load(spec)) == line
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("is_archive", [True, False])
def test_weights_that_torch_saved_are_taken(is_archive: bool, base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    folder = tmp_path / "model"
    shutil.copytree(base, folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    file = folder / "pytorch_model.bin"
    torch.save(weights, file, _use_new_zipfile_serialization=is_archive)
    find_pretrained(make_spec(folder).model).check_weights()
