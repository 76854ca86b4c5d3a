"""A trained model's folder that a stranger made: its code does not run, its pickles are not read,
and nothing outside of it is."""

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
from safetensors.torch import load_file
from typer.testing import CliRunner

from ftray.cli.main import app
from ftray.errors import ModelError, from_json
from ftray.models.load import load_model
from ftray.serve.settings import find, parse
from ftray.store.files.location import Location, locate
from ftray.store.root import MODEL_MANIFEST
from ftray.train.distributed.outcomes import Failure
from tests.helpers.models.tiny_model import make_model

INDEX = "model.safetensors.index.json"
CODE = """
from pathlib import Path

from transformers import BertConfig, BertForSequenceClassification

Path({mark!r}).touch()


class OwnConfig(BertConfig):
    model_type = "own"


class Own(BertForSequenceClassification):
    config_class = OwnConfig
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Location:
    return make_model(tmp_path_factory.mktemp("models") / "made")


@pytest.fixture
def folder(made: Location, tmp_path: Path) -> Path:
    """A copy without checksums: whoever makes a folder can write those that fit."""
    copy = Path(shutil.copytree(made.path, tmp_path / "copy"))
    _change(copy / MODEL_MANIFEST, files={})
    return copy


@pytest.fixture
def with_code(folder: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A folder whose config and manifest say that its code is to run, and what that makes."""
    mark = tmp_path / "ran"
    (folder / "own.py").write_text(CODE.format(mark=str(mark)))
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForSequenceClassification": "own.Own"}
    _change(folder / "config.json", model_type="own", auto_map=classes)
    base = json.loads((folder / MODEL_MANIFEST).read_text())["base"]
    _change(folder / MODEL_MANIFEST, base={**base, "trust_remote_code": True})
    return folder, mark


def _change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def _refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(locate(str(folder)))
    return str(caught.value)


def test_a_folder_does_not_decide_that_its_code_runs(with_code: tuple[Path, Path]) -> None:
    folder, mark = with_code
    assert "--trust-remote-code" in _refusal(folder)
    assert not mark.exists()
    load_model(locate(str(folder)), trust_remote_code=True).check_golden()
    assert mark.exists()


def test_commands_run_code_where_their_user_says_so(with_code: tuple[Path, Path]) -> None:
    folder, mark = with_code
    rows = folder.parent / "rows.jsonl"
    rows.write_text(json.dumps({"text": "Dull", "label": "bad"}) + "\n")
    asked = ["evaluate", str(folder), "--data", str(rows)]
    refused = CliRunner().invoke(app, asked)
    assert (refused.exit_code, mark.exists()) == (2, False)
    done = CliRunner().invoke(app, [*asked, "--trust-remote-code"])
    assert (done.exit_code, mark.exists()) == (0, True)


def test_the_section_serve_of_a_folder_does_not_decide_it_either(folder: Path) -> None:
    spec = json.loads((folder / MODEL_MANIFEST).read_text())["spec"]
    serve = {**spec["serve"], "trust_remote_code": True}
    _change(folder / MODEL_MANIFEST, spec={**spec, "serve": serve})
    (model,), _ = find(parse({"model": str(folder)}))
    assert not model.trust_remote_code
    (model,), _ = find(parse({"model": str(folder), "trust_remote_code": True}))
    assert model.trust_remote_code


def _only_pickle(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")


def _pickle_as_shard(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "part.bin")
    (folder / INDEX).write_text(
        json.dumps({"metadata": {}, "weight_map": dict.fromkeys(weights, "part.bin")})
    )


def _shard_elsewhere(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder.parent / "other.safetensors")
    map_ = dict.fromkeys(weights, "../other.safetensors")
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": map_}))


def _link_out(folder: Path) -> None:
    (folder / "vocab.txt").unlink(missing_ok=True)
    (folder / "vocab.txt").symlink_to("/etc/passwd")


def _adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/"}')


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_only_pickle, "model.safetensors"),
        (_pickle_as_shard, "its weights are in part.bin"),
        (_shard_elsewhere, "its weights are in ../other.safetensors"),
        (_link_out, "its vocab.txt is a link out of it"),
        (_adapter, "adapter_config.json changes the weights"),
    ],
)
def test_only_its_own_tensors_are_read(
    spoil: Callable[[Path], None], said: str, folder: Path
) -> None:
    spoil(folder)
    assert said in _refusal(folder)


def test_a_failure_that_a_stranger_put_into_a_store_runs_nothing(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "evil"),)

    for content in (
        pickle.dumps(Evil()).hex(),
        json.dumps({"place": "x", "error": {"kind": "os"}}),
    ):
        with pytest.raises((ValueError, KeyError)):
            Failure.from_text(content)
    assert not (tmp_path / "evil").exists()
    error = ModelError.of("model", "/base", "no such folder", "name another")
    assert str(from_json(json.loads(json.dumps(error.to_json())))) == str(error)
    assert Failure.from_text(Failure("rank 0", error).to_text()).place == "rank 0"
