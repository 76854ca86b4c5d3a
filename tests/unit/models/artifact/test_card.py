"""The model card: what the Hub reads of it, what it tells and keeps to itself, and its example."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from ftray.models.artifact.card import card
from ftray.models.artifact.groups import Groups, by_group, worst_first
from ftray.models.artifact.manifest import ModelInfo, read_info
from ftray.models.artifact.origin import hub_id
from ftray.models.load import load_model
from ftray.models.pretrained import Pretrained, find_pretrained
from ftray.spec.load import override, parse
from ftray.spec.schema import ModelSpec
from ftray.store.files.location import locate
from ftray.store.root import MODEL_MANIFEST
from ftray.tasks import task_info
from ftray.tasks.per_label import LabelScore
from ftray.train.engine.state import State
from tests.helpers.models.encoded import LABELS, write_encoded
from tests.helpers.models.exported import export_state
from tests.helpers.models.tiny_generator import make_generator
from tests.helpers.models.tiny_model import BASE, make_model
from tests.helpers.models.tiny_networks import tiny_network

ROWS = [f"a private row number {number}, about this and that" for number in range(30)]
BASE_CARD = "---\nlicense: mit\n---\n# A base\n"


def write_base(folder: Path, told: str | None = None, readme: str = BASE_CARD) -> str:
    """A tiny pretrained model with MiniLM's tokenizer, whose config names it `told`."""
    tiny_network("bert", vocab_size=30522).base_model.save_pretrained(folder)
    info = task_info("text-classification")
    find_pretrained(ModelSpec(name_or_path=BASE)).processor(info).save_pretrained(folder)
    config = folder / "config.json"
    tree = json.loads(config.read_text())
    tree.pop("_name_or_path", None)
    config.write_text(json.dumps(tree | ({} if told is None else {"_name_or_path": told})))
    (folder / "README.md").write_text(readme)
    return str(folder)


def exported(folder: Path, base: str, groups: Groups | None = None, **keys: Any) -> Path:
    """The model folder of an untrained model, as `ftray train` writes it."""
    tree = {"name": "tiny", "model": {"name_or_path": base}, "data": {"train": "x"}}
    spec = override(parse(tree), {"data.max_length": 32, **keys})
    splits = {"train": ROWS[:18], "validation": ROWS[18:24], "test": ROWS[24:]}
    data = write_encoded(folder / "data", spec, splits)
    weight = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    return export_state(folder, spec, data, State({"classifier.weight": 8 * weight}), groups=groups)


def test_the_worst_group_of_the_test_rows_is_told_first(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    groups = Groups(["a|b", "south"], np.array([0, 1, 0, 1, 1, 0]))
    made = exported(tmp_path, base, groups, **{"data.group": "region", "train.metric": "loss"})
    info = read_info(locate(str(made)))
    assert {group.rows for group in info.groups} == {3}
    worst, best = (group.metrics["loss"] for group in info.groups)
    assert worst > best and (worst + best) / 2 == pytest.approx(info.metrics["test"]["loss"])
    text = (made / "README.md").read_text()
    assert "| region, on the test split, the worst first | rows |" in text
    shown = [text.index(f"| {group.value} | 3 |".replace("a|b", "a\\|b")) for group in info.groups]
    assert shown == sorted(shown)


def test_a_metric_that_a_group_leaves_undefined_is_left_out() -> None:
    groups = Groups(["one", "two", "three"], np.array([0, 1, 2, 2]))
    values = {0: float("nan"), 1: 0.5, 2: 0.9}

    def measure(places: np.ndarray) -> dict[str, Any]:
        return {"roc_auc": values[int(groups.codes[places[0]])], "rows": len(places), "loss": 1.0}

    found = by_group(groups, np.arange(4), measure)
    assert [(group.value, group.rows) for group in found][0] == ("three", 2)
    assert [g.value for g in worst_first(found, "roc_auc", False)] == ["two", "three", "one"]
    assert [g.value for g in worst_first(found, "roc_auc", True)] == ["three", "two", "one"]
    assert found[1].metrics == {"loss": 1.0} and found[1].value == "one"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card")
    return exported(folder, write_base(folder / "base", "owner/base"))


def head(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
    return found


def test_the_hub_reads_its_head(made: Path) -> None:
    data = ModelCard.load(made / "README.md").data  # raises for an invalid model-index
    assert data.eval_results is not None
    told = {found.metric_name: found.metric_value for found in data.eval_results}
    metrics = read_info(locate(str(made))).metrics["test"]
    assert told == {name: metrics[name] for name in ("accuracy", "f1_macro", "loss")}
    assert {found.metric_type for found in data.eval_results} == {"accuracy", "f1", "loss"}
    assert {found.dataset_split for found in data.eval_results} == {"test"}
    assert (data.base_model, data.license) == ("owner/base", "mit")
    assert (data.pipeline_tag, data.library_name) == ("text-classification", "transformers")


def test_rows_of_each_split_and_figures_of_each_label(made: Path) -> None:
    text = (made / "README.md").read_text()
    metrics = read_info(locate(str(made))).metrics["test"]
    assert "| split | rows | accuracy | f1_macro | loss |" in text
    assert "| train | 18 |  |  |  |" in text
    assert f"| test | 6 | {metrics['accuracy']:.4f} |" in text
    assert "| label, on the test split | rows | precision | recall | F1 |" in text
    for label in LABELS:
        assert f"| {label} | 2 | " in text


def test_rows_of_each_label_and_what_was_left_out(made: Path) -> None:
    text = (made / "README.md").read_text()
    assert "- train: 30 rows read, none left out" in text
    assert "| rows with the label | train | validation | test |" in text
    for label in LABELS:
        assert f"| {label} | 6 | 2 | 2 |" in text
    assert "It was trained on up to 32 tokens a row" in text


def test_the_language_of_the_data_is_in_the_head(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", "owner/base")
    made = exported(tmp_path, base, **{"export.language": "de"})
    assert ModelCard.load(made / "README.md").data.language == "de"
    assert "- Language: de" in (made / "README.md").read_text()


@pytest.mark.parametrize("count", [20, 21])
def test_the_figures_of_many_labels_are_elsewhere(made: Path, count: int) -> None:
    info = read_info(locate(str(made)))
    scores = [LabelScore(f"a|b {n}", 1, 1, 1.0, 1.0, 1.0) for n in range(count)]
    text = card(info, {"test": scores})
    assert ("| a\\|b 7 | 1 |" in text) == (count <= 20)
    assert ("each of 21 labels are in `per_label.csv`" in text) == (count > 20)


@pytest.mark.parametrize("told", [None, "models/here", "./base", "/home/me/base", "base"])
def test_no_path_of_this_machine_is_in_it(
    tmp_path: Path, told: str | None, monkeypatch: Any
) -> None:
    (tmp_path / "models" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    made = exported(tmp_path, write_base(tmp_path / "base", told))
    assert "base_model" not in head(made)
    text = (made / "README.md").read_text()
    assert str(tmp_path) not in text and (told is None or f"`{told}`" not in text)


def test_a_hub_id_is_taken_as_it_is(tmp_path: Path) -> None:
    spec = ModelSpec(name_or_path="distilbert/distilbert-base-uncased")
    assert hub_id(Pretrained(spec, tmp_path)) == "distilbert/distilbert-base-uncased"


@pytest.mark.parametrize("readme", ["# None", "---\nlicense: [a\n---\n", "---\n- a\n---\n", None])
def test_a_licence_that_is_not_known_is_left_out(tmp_path: Path, readme: str | None) -> None:
    base = write_base(tmp_path / "base", readme=readme or "")
    if readme is None:
        (tmp_path / "base" / "README.md").unlink()
    assert "license" not in head(exported(tmp_path, base))


def test_the_bases_card_changes_nothing_that_is_computed(tmp_path: Path) -> None:
    base = find_pretrained(ModelSpec(name_or_path=write_base(tmp_path / "base")))
    before = base.digest()
    (tmp_path / "base" / "README.md").write_text("other words")
    assert base.digest() == before


def run_example(folder: Path, *replaced: tuple[str, str]) -> str:
    """What the card's example prints for the model in `folder`."""
    (code,) = (folder / "README.md").read_text().split("```python\n")[1].split("```")[:1]
    for old, new in (("PATH OF THIS FOLDER", str(folder)), *replaced):
        assert old in code
        code = code.replace(old, new)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(code, {})
    return said.getvalue()


def test_its_example_cuts_a_long_text_as_ftray_does(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    long = "dull but never without a certain charm " * 200
    (theirs,) = json.loads(
        run_example(Path(folder.path), ("A text to be labelled.", long)).replace("'", '"')
    )
    (ours,) = load_model(folder).outcomes([long])
    assert ours is not None and theirs["label"] == ours.columns["prediction"]
    assert theirs["score"] == pytest.approx(ours.columns["score"], abs=1e-5)


@pytest.mark.parametrize("long", ["", "film " * 400])
def test_the_example_of_a_model_that_generates(tmp_path: Path, long: str) -> None:
    folder = Path(make_generator(tmp_path / "model").path)
    assert "generated_text" in run_example(folder, ('"Once"', repr(f"{long}the film has")))


def test_the_example_of_a_model_that_learnt_chats(tmp_path: Path) -> None:
    folder = Path(make_generator(tmp_path / "model").path)
    info = read_info(locate(str(folder)))
    chats = {**info.spec, "data": {**info.spec["data"], "columns": {"messages": "messages"}}}
    (folder / "README.md").write_text(card(info.model_copy(update={"spec": chats}), {}))
    assert "assistant" in run_example(folder)


def test_a_chat_among_the_golden_questions_tells_of_chats(tmp_path: Path) -> None:
    info = read_info(make_generator(tmp_path / "model"))
    asked = json.dumps([{"role": "user", "content": "film?"}])
    golden = (info.golden[0].model_copy(update={"input": asked}),)
    assert not info.learnt_chats
    assert info.model_copy(update={"golden": golden}).learnt_chats


def golden(folder: Path) -> ModelInfo:
    load_model(locate(str(folder))).check_golden()
    return read_info(locate(str(folder)))


def holding(folder: Path, rows: list[str]) -> list[str]:
    """Files of a folder with one of the rows in them."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path.name for path in files if any(row.encode() in path.read_bytes() for row in rows)]


def test_golden_answers_are_rows_unless_the_spec_says_otherwise(made: Path) -> None:
    assert [item.input for item in golden(made).golden] == ROWS[24:]
    assert holding(made, ROWS) == [MODEL_MANIFEST]
    said = (made / "README.md").read_text()
    assert "holds 6 golden answers" in said and "rows of the test split, as they were read" in said


def test_synthetic_golden_answers_prove_the_model_and_hold_no_row(tmp_path: Path) -> None:
    made = exported(tmp_path, write_base(tmp_path / "base"), **{"export.golden": "synthetic"})
    found = golden(made).golden
    assert len({item.input for item in found}) == 8
    assert holding(made, ROWS) == []
    assert "made-up texts" in (made / "README.md").read_text()
    model = load_model(locate(str(made)))
    with torch.no_grad():
        model.model.classifier.bias += torch.tensor([0.1, 0.0, 0.0])
    with pytest.raises(Exception, match="golden answers of tiny"):
        model.check_golden()


def test_a_folder_without_golden_answers_is_loaded_all_the_same(tmp_path: Path) -> None:
    made = exported(tmp_path, write_base(tmp_path / "base"), **{"export.golden": "off"})
    assert golden(made).golden == ()
    assert holding(made, ROWS) == []
    assert "holds no golden answers" in (made / "README.md").read_text()


def test_yaml_reads_off_as_false() -> None:
    tree = {"name": "a", "model": {"name_or_path": "b"}, "data": {"train": "c"}}
    for value in (False, "off"):
        assert parse({**tree, "export": {"golden": value}}).export.golden == "off"
