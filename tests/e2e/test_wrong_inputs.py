"""Mistakes of users: each gives one message that names the key or file, the value and the fix.

The command exits with 2, shows no traceback and writes nothing. Mistakes that can be found without
the model are reported at once.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.training.small_runs import tree, write_rows

Spec = dict[str, Any]


@dataclass(frozen=True)
class Mistake:
    """A way to make a mistake in a spec in a folder, and words that the message must have."""

    make: Callable[[Spec, Path], Any]
    says: tuple[str, ...]


def _set(section: str, **values: Any) -> Callable[[Spec, Path], None]:
    def make(spec: Spec, folder: Path) -> None:
        spec[section] = {**spec.get(section, {}), **values}

    return make


def _train_on(name: str, content: bytes, **data: Any) -> Callable[[Spec, Path], None]:
    """Trains on a file with this name and content."""

    def make(spec: Spec, folder: Path) -> None:
        file = folder / name
        file.write_bytes(content)
        spec["data"].update({"train": str(file), **data})

    return make


def _csv(*rows: str) -> bytes:
    return "\n".join(("text,label", *rows)).encode()


def _jsonl(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _rows(*labels: str) -> list[Spec]:
    return [{"text": f"row number {i}", "label": label} for i, label in enumerate(labels)]


def _validation_with_new_label(spec: Spec, folder: Path) -> None:
    (folder / "other.jsonl").write_bytes(_jsonl(*_rows("positive", "neutral")))
    spec["data"]["validation"] = str(folder / "other.jsonl")


def _no_model(spec: Spec, folder: Path) -> None:
    (folder / "empty").mkdir()
    spec["model"] = {"name_or_path": str(folder / "empty")}


def _storage_is_a_file(spec: Spec, folder: Path) -> None:
    (folder / "file").write_text("")
    spec["storage"] = str(folder / "file" / "storage")


def _deepspeed_json(content: str) -> Callable[[Spec, Path], None]:
    def make(spec: Spec, folder: Path) -> None:
        (folder / "ds.json").write_text(content)
        spec["train"]["deepspeed"] = str(folder / "ds.json")

    return make


BALANCED = ["a good film,positive", "a bad film,negative"] * 3

QUICK = {
    "unknown key": Mistake(_set("train", epoch=3), ("train.epoch = 3", "train.epochs")),
    "unknown section": Mistake(_set("trian", epochs=3), ("trian", "Did you mean train?")),
    "wrong type": Mistake(_set("train", batch_size="many"), ("train.batch_size = many", "whole")),
    "value out of range": Mistake(_set("train", learning_rate=-1), ("train.learning_rate = -1",)),
    "more workers than rows": Mistake(_set("scale", workers=64), ("train.batch_size = 16", "64")),
    "shares of more than all": Mistake(
        _set("data", validation=0.6, test=0.5), ("data: ", "data.validation")
    ),
    "search over no key": Mistake(
        _set("tune", space={"train.lr": {"choice": [1]}}), ("tune.space.train.lr", "train.")
    ),
    "search bounds that fall": Mistake(
        _set("tune", space={"train.epochs": {"randint": [3, 1]}}), ("train.epochs", "rising")
    ),
    "missing data file": Mistake(_set("data", train="nowhere.csv"), ("data.train", "nowhere.csv")),
    "unknown format": Mistake(_train_on("rows.docx", b"x"), ("data.train", "rows.docx", ".csv")),
    "missing column": Mistake(
        _set("data", columns={"text": "review"}), ("data.columns.text = review", "text")
    ),
    "one label only": Mistake(
        _train_on("one.jsonl", _jsonl(*_rows(*["good"] * 9))), ("data.train", "label", "good")
    ),
    "empty file": Mistake(_train_on("none.csv", b""), ("data.train", "none.csv")),
    "no rows": Mistake(_train_on("header.csv", _csv()), ("data.train", "header.csv")),
    "a split that stays empty": Mistake(
        _train_on("few.jsonl", _jsonl(*_rows("a", "b", "a", "b"))), ("data.", "empty")
    ),
    "a label that train lacks": Mistake(
        _validation_with_new_label, ("data.validation", "neutral", "on_bad_row")
    ),
    "NaN text": Mistake(
        _train_on("nan.jsonl", _jsonl(*_rows("a", "b") * 5, {"text": float("nan"), "label": "a"})),
        ("nan.jsonl:11", "1 row without text", "data.on_bad_row"),
    ),
    "not UTF-8": Mistake(
        _train_on("latin.csv", _csv("déjà vu,positive", *BALANCED).decode().encode("latin-1")),
        ("latin.csv", "data.encoding"),
    ),
    "ragged CSV": Mistake(
        _train_on("ragged.csv", _csv(*BALANCED, "too,many,fields")),
        ("ragged.csv:8", "ragged", "data.on_bad_row"),
    ),
    "a model folder that is none": Mistake(_no_model, ("model.name_or_path", "config.json")),
    "a package that is not installed": Mistake(
        _set("model", name_or_path="package://nowhere/model"), ("nowhere", "pip install nowhere")
    ),
    "rows longer than the model takes": Mistake(
        _set("data", max_length=4096), ("data.max_length = 4096", "512")
    ),
    "unwritable storage root": Mistake(_storage_is_a_file, ("storage", "file")),
    "storage of unknown kind": Mistake(
        lambda spec, folder: spec.update(storage="ftp://host/x"), ("ftp://host/x", "s3://")
    ),
    "DeepSpeed JSON that contradicts": Mistake(
        _deepspeed_json('{"fp16": {"enabled": true}}'), ("train.deepspeed: fp16.enabled", "bf16")
    ),
    "DeepSpeed JSON that is none": Mistake(_deepspeed_json("{"), ("train.deepspeed", "ds.json")),
}


def ftray(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs the command as a user does, without a terminal and without a cluster."""
    environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "FTRAY_STORAGE")}
    return subprocess.run(
        [sys.executable, "-m", "ftray", *map(str, arguments)],
        cwd=cwd,
        env={**environment, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )


def write(spec: Spec, folder: Path) -> Path:
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


def check(run: subprocess.CompletedProcess[str], says: tuple[str, ...]) -> None:
    assert run.returncode == 2, run.stderr
    assert "Traceback" not in run.stderr + run.stdout
    for words in says:
        assert words in run.stderr, run.stderr


@pytest.mark.parametrize("name", QUICK)
def test_said_at_once_and_nothing_written(name: str, tmp_path: Path) -> None:
    mistake = QUICK[name]
    write_rows(tmp_path / "rows.jsonl", 60)
    spec = tree(tmp_path)
    mistake.make(spec, tmp_path)
    path = write(spec, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    run = ftray("train", path, cwd=tmp_path)
    check(run, mistake.says)
    assert run.stdout == ""
    assert len(run.stderr.splitlines()) == 1, f"Ray has not started: {run.stderr}"
    assert sorted(tmp_path.rglob("*")) == before, "something was written"


def test_every_fault_of_a_spec_is_said_in_one_go(tmp_path: Path) -> None:
    spec = tree(tmp_path, train={"epochs": 0, "schedule": "step"}, data={"on_bad_row": "ignore"})
    run = ftray("validate", write(spec, tmp_path), "--json", cwd=tmp_path)
    problems = json.loads(run.stdout)["problems"]
    keys = {problem["key"] for problem in problems}
    assert keys == {"train.epochs", "train.schedule", "data.on_bad_row"}
    assert run.returncode == 2


def test_a_spec_that_is_not_there_or_not_yaml(tmp_path: Path) -> None:
    check(ftray("train", "nowhere.yaml", cwd=tmp_path), ("nowhere.yaml", "ftray init"))
    (tmp_path / "broken.yaml").write_text("name: [unclosed")
    check(ftray("train", "broken.yaml", cwd=tmp_path), ("broken.yaml", "line 1"))


def test_a_wrong_override(tmp_path: Path) -> None:
    path = write(tree(tmp_path), tmp_path)
    run = ftray("train", path, "--set", "train.epochs=few", cwd=tmp_path)
    check(run, ("train.epochs = few",))
    check(ftray("train", path, "--set", "train.epochs", cwd=tmp_path), ("--set", "KEY=VALUE"))


def test_tune_without_a_section(tmp_path: Path) -> None:
    check(ftray("tune", write(tree(tmp_path), tmp_path), cwd=tmp_path), ("tune: missing", "init"))


def test_a_cluster_too_small(tmp_path: Path) -> None:
    spec = tree(tmp_path, scale={"workers": 64}, train={"batch_size": 64, "micro_batch_size": 1})
    run = ftray("train", write(spec, tmp_path), cwd=tmp_path)
    check(run, ("scale.workers = 64", "room for"))
    assert not (tmp_path / "storage").exists()


def test_a_cluster_that_does_not_answer(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "ftray", "train", str(write(tree(tmp_path), tmp_path))],
        env={**os.environ, "RAY_ADDRESS": "127.0.0.1:1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    check(run, ("RAY_ADDRESS = 127.0.0.1:1",))


@pytest.mark.parametrize("verb", ["serve", "evaluate"])
def test_a_folder_that_is_no_model(verb: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    check(ftray(verb, tmp_path / "folder", cwd=tmp_path), ("folder", "ftray.json"))


def test_a_model_name_that_is_not_registered(tmp_path: Path) -> None:
    run = ftray("serve", "nobody@production", "--storage", tmp_path / "root", cwd=tmp_path)
    check(run, ("nobody",))
    assert not (tmp_path / "root").exists()


def test_a_port_in_use(tmp_path: Path) -> None:
    from tests.helpers.models.tiny_model import make_model

    model = make_model(tmp_path / "model")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        run = ftray("serve", model.path, "--port", str(port), cwd=tmp_path)
    check(run, (f"--port = {port}", "in use"))


def test_init_does_not_overwrite_and_knows_its_tasks(tmp_path: Path) -> None:
    assert ftray("init", cwd=tmp_path).returncode == 0
    check(ftray("init", cwd=tmp_path), ("ftray.yaml", "exists"))
    run = ftray("init", "text-clasification", "--out", "x.yaml", cwd=tmp_path)
    check(run, ("text-classification",))


def test_help_is_quick(tmp_path: Path) -> None:
    used = _seconds_of_children()
    assert ftray("--help", cwd=tmp_path).returncode == 0
    assert _seconds_of_children() - used < 2, "of a core, however busy the machine is"


def test_the_version_is_said(tmp_path: Path) -> None:
    run = ftray("--version", cwd=tmp_path)
    assert run.returncode == 0
    assert run.stdout.startswith(f"ftray {version('ftray')}, Python 3")
    assert "ray 2" in run.stdout


def _seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
