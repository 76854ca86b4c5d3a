"""A model folder: opens with plain transformers, says what it is, and proves what it answers."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from ftray.errors import ModelError
from ftray.models.artifact.manifest import FORMAT, ModelInfo, read_info
from ftray.models.artifact.publish import finish, place
from ftray.models.inference.loaded import GOLDEN_TOLERANCE, TOLERANCES
from ftray.models.inference.predictor import Predictor
from ftray.spec.sections.compute import Compute
from ftray.store.files.location import Location, locate
from ftray.store.root import MODEL_MANIFEST
from tests.helpers.models.tiny_model import BASE, GOLDEN, LABELS, logits_of, make_model

BF16 = Compute(precision="bf16")
TEXTS = ["A wonderful film.", "Bad.", "It is neither good nor bad " * 5, "Dull"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Location:
    """A model folder as `ftray train` writes it."""
    return make_model(tmp_path_factory.mktemp("models") / "made")


@pytest.fixture(scope="module")
def predictor(made: Location) -> Predictor:
    return Predictor(made)


@pytest.fixture
def copy(made: Location, tmp_path: Path) -> Path:
    """A copy that a test may spoil. Its weights are a link: replace them, don't write into them."""
    return Path(shutil.copytree(made.path, tmp_path / "copy", copy_function=_copy))


@pytest.fixture
def unchecked(copy: Path) -> Path:
    """The same without checksums, as an older ftray wrote it: only its answers prove it."""
    change(copy, files={})
    return copy


def _copy(source: str, target: str) -> None:
    (os.link if source.endswith(".safetensors") else shutil.copy)(source, target)


def problem(folder: Path, act: Callable[[Location], Any] = read_info) -> Any:
    with pytest.raises(ModelError) as caught:
        act(locate(str(folder)))
    (found,) = caught.value.problems
    return found


def change(folder: Path, **values: Any) -> None:
    manifest = folder / MODEL_MANIFEST
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **values}))


def change_weight(folder: Path, name: str, by: float) -> None:
    """Add noise of that size."""
    file = folder / "model.safetensors"
    weights = load_file(file)
    noise = torch.randn(weights[name].shape, generator=torch.Generator().manual_seed(0))
    weights[name] = weights[name] + by * noise
    file.unlink()
    save_file(weights, file, metadata={"format": "pt"})


def test_what_was_written_is_read(made: Location, tmp_path: Path) -> None:
    info = read_info(made)
    assert (info.name, info.task, info.labels) == ("tiny", "text-classification", LABELS)
    assert info.base.name_or_path == BASE
    assert [item.input for item in info.golden] == list(GOLDEN)
    assert info.metrics["test"] == {"accuracy": 0.5, "f1_macro": 0.4}
    assert ModelInfo.model_validate_json(info.model_dump_json()) == info


def test_golden_answers_of_an_older_folder_are_read_by_their_names_there(copy: Path) -> None:
    golden = json.loads((copy / MODEL_MANIFEST).read_text())["golden"]
    renamed = {"numbers": "probabilities", "places": "labels"}
    older = [{renamed.get(name, name): value for name, value in item.items()} for item in golden]
    change(copy, golden=older)
    found = read_info(locate(str(copy))).golden
    assert [item.numbers for item in found] == [tuple(item["numbers"]) for item in golden]
    Predictor(locate(str(copy))).check_golden()


def test_plain_transformers_gives_its_answers(made: Location, predictor: Predictor) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(made.path).eval()
    tokenizer = AutoTokenizer.from_pretrained(made.path)
    found = predictor.answers(TEXTS)
    for text, answer in zip(TEXTS, found, strict=True):
        inputs = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
        with torch.inference_mode():
            shares = model(**inputs).logits.softmax(-1)[0]
        best = int(shares.argmax())
        assert model.config.id2label[best] == answer["label"]
        assert float(shares[best]) == pytest.approx(answer["score"], abs=1e-5)


def test_the_pipeline_of_its_card_gives_its_answers(made: Location, predictor: Predictor) -> None:
    card = (Path(made.path) / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    classify = pipeline(header["pipeline_tag"], model=made.path)
    for answer, theirs in zip(predictor.answers(TEXTS), classify(TEXTS), strict=True):
        assert answer["label"] == theirs["label"]
        assert answer["score"] == pytest.approx(theirs["score"], abs=1e-5)
    every = classify(TEXTS[0], top_k=None)
    assert [item["label"] for item in every] == [
        item["label"] for item in predictor.answers(TEXTS[:1], top_k=3)[0]
    ]


def test_the_card_says_where_the_model_came_from_and_how_good_it_is(made: Location) -> None:
    card = (Path(made.path) / "README.md").read_text()
    for words in (BASE, "| test | 0.5000 | 0.4000 |", "bad, good, mixed", "20250101-000000-tiny"):
        assert words in card


def test_weights_are_safetensors_and_nothing_is_pickled(made: Location) -> None:
    suffixes = {path.suffix for path in Path(made.path).rglob("*") if path.is_file()}
    assert suffixes <= {".json", ".safetensors", ".md", ".txt", ".jinja", ".model"}


def test_answers_do_not_depend_on_batching_or_order(made: Location, predictor: Predictor) -> None:
    single = Predictor(made, batch_size=1)
    together, alone = logits_of(predictor, TEXTS), logits_of(single, TEXTS)
    assert together == pytest.approx(alone, abs=1e-5)
    assert logits_of(predictor, TEXTS[::-1]).flip(0) == pytest.approx(together, abs=1e-5)


def test_no_texts_are_no_answers(predictor: Predictor) -> None:
    assert predictor.answers([]) == []


def test_a_text_of_any_length_has_an_answer(predictor: Predictor) -> None:
    (answer, short) = predictor.answers(["word " * 5000, "a"], top_k=3)
    assert sum(item["score"] for item in answer) == pytest.approx(1)
    assert sum(item["score"] for item in short) == pytest.approx(1)


def test_a_text_without_tokens_has_no_outcome_and_no_golden_answer(predictor: Predictor) -> None:
    none, some = predictor.outcomes(["", "a"])
    assert none is None and some is not None and sum(some.probabilities or ()) == pytest.approx(1)
    assert some.columns.keys() == {"prediction", "score"}
    assert [item.input for item in predictor.golden(["", "a"])] == ["a"]


def test_evaluation_counts_what_the_answers_say(predictor: Predictor) -> None:
    labels = [answer["label"] for answer in predictor.answers(TEXTS)]
    assert accuracy(predictor, labels) == 1
    wrong = [LABELS[(LABELS.index(labels[0]) + 1) % 3], *labels[1:]]
    assert accuracy(predictor, wrong) == 0.75


def accuracy(predictor: Predictor, labels: list[str]) -> float:
    examples = predictor.examples({"text": TEXTS, "label": labels})
    measured = predictor.measure(examples)
    assert measured.truth.tolist() == [LABELS.index(label) for label in labels]
    assert (measured.truth == measured.predicted).mean() == measured.metrics["accuracy"]
    return measured.metrics["accuracy"]


def test_golden_answers_hold_on_a_copy(copy: Path) -> None:
    Predictor(locate(str(copy))).check_golden()


@pytest.mark.parametrize("name", ["classifier.bias", "bert.encoder.layer.0.output.dense.weight"])
def test_a_changed_weight_breaks_the_golden_answers(unchecked: Path, name: str) -> None:
    change_weight(unchecked, name, 0.05)
    predictor = Predictor(locate(str(unchecked)))
    found = problem(unchecked, lambda _: predictor.check_golden())
    assert found.key == "golden answers of tiny"
    assert found.value == GOLDEN[0]


def test_a_folder_without_its_tokenizer_is_refused(unchecked: Path) -> None:
    for name in ("tokenizer.json", "vocab.txt"):
        (unchecked / name).unlink(missing_ok=True)
    assert "every word would get the same id" in problem(unchecked, Predictor).problem


def test_answers_that_are_no_numbers_break_the_golden_answers(unchecked: Path) -> None:
    change_weight(unchecked, "classifier.bias", math.nan)
    assert "off by nan" in problem(unchecked, lambda it: Predictor(it).check_golden()).problem


def flip_bit(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_one_bit_that_differs_is_refused_and_its_file_named(copy: Path, name: str) -> None:
    # In the middle of the weights: no golden answer may have a word of that row.
    flip_bit(copy / name, (copy / name).stat().st_size // 2)
    found = problem(copy, Predictor)
    assert found.problem == f"{name} is not what was written (its checksum differs)"
    assert "copy the folder again" in found.fix.lower()


def test_the_card_may_be_edited_and_files_added(copy: Path) -> None:
    (copy / "README.md").write_text("My own words.")
    (copy / "notes.txt").write_text("mine")
    Predictor(locate(str(copy))).check_golden()


def test_rounding_does_not_break_the_golden_answers(copy: Path) -> None:
    golden = json.loads((copy / MODEL_MANIFEST).read_text())["golden"]
    for item in golden:
        item["numbers"] = [p + GOLDEN_TOLERANCE / 2 for p in item["numbers"]]
    change(copy, golden=golden)
    Predictor(locate(str(copy))).check_golden()


def test_bf16_answers_nearly_the_same_and_holds_the_golden_answers(
    copy: Path, predictor: Predictor
) -> None:
    halved = Predictor(locate(str(copy)), compute=BF16)
    halved.check_golden()
    exact, rounded = logits_of(predictor, GOLDEN), logits_of(halved, GOLDEN)
    assert rounded.dtype == torch.float32
    gap = (exact.softmax(-1) - rounded.softmax(-1)).abs().max()
    assert 0 < gap < TOLERANCES["bf16"]
    plain = Predictor(locate(str(copy)))
    plain.compute = BF16
    assert torch.equal(rounded, logits_of(plain, GOLDEN)), "as autocast alone has it"


def test_a_model_that_bf16_changes_says_how_to_serve_it(copy: Path) -> None:
    golden = json.loads((copy / MODEL_MANIFEST).read_text())["golden"]
    for item in golden:
        item["numbers"] = item["numbers"][::-1]
    change(copy, golden=golden)
    wrong = problem(copy, lambda it: Predictor(it, compute=BF16).check_golden())
    assert "serve.precision to fp32" in wrong.fix
    assert "serve.precision" not in problem(copy, lambda it: Predictor(it).check_golden()).fix


def test_a_folder_without_its_manifest_is_no_model(copy: Path) -> None:
    (copy / MODEL_MANIFEST).unlink()
    for act in (read_info, Predictor):
        found = problem(copy, act)
        assert (found.key, found.value) == ("model", str(copy))
        assert "no ftray.json" in found.problem


def test_a_folder_that_is_not_there_is_no_model(tmp_path: Path) -> None:
    assert problem(tmp_path / "none").problem == "no such folder"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "Invalid JSON"),
        ("{", "Invalid JSON"),
        ("[]", "object"),
        ("{}", "name: Field required"),
        ('{"format": "x"}', "format: "),
    ],
)
def test_a_manifest_that_cannot_be_read_is_named(copy: Path, content: str, words: str) -> None:
    (copy / MODEL_MANIFEST).write_text(content)
    found = problem(copy)
    assert found.key == str(copy / MODEL_MANIFEST)
    assert words in found.problem


@pytest.mark.parametrize("rest", [{}, {"name": ["of", "another", "shape"], "new": 1}])
def test_a_newer_format_is_refused_whatever_it_holds(copy: Path, rest: dict[str, Any]) -> None:
    change(copy, format=FORMAT + 1, **rest)
    found = problem(copy)
    assert found.value == str(FORMAT + 1)
    assert found.problem == "written by a newer ftray"


def test_a_task_that_is_unknown_here_is_refused(copy: Path) -> None:
    change(copy, task="mind-reading")
    assert problem(copy).value == "mind-reading"


def spoil(path: Path) -> None:
    """Leave half of a file, as a broken copy does."""
    half = path.read_bytes()[: path.stat().st_size // 2]
    path.unlink()
    path.write_bytes(half)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("damage", [spoil, Path.unlink], ids=["torn", "missing"])
def test_a_folder_with_a_broken_file_answers_nothing(
    unchecked: Path, name: str, damage: Callable[[Path], None]
) -> None:
    damage(unchecked / name)
    found = problem(unchecked, lambda folder: Predictor(folder).check_golden())
    assert found.fix


def test_a_folder_exists_once_its_manifest_is_there(
    made: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging = tmp_path / "staging"
    staging.mkdir()
    for name in ("config.json", "vocab.txt", "zz-last-by-name.json"):
        (staging / name).write_text("{}")
    order: list[str] = []
    whole = Location.write_bytes

    def write(self: Location, content: bytes) -> None:
        order.append(self.name)
        if len(order) == 4:
            raise OSError("no space left on device")
        whole(self, content)

    target = locate(str(tmp_path / "target"))
    monkeypatch.setattr(Location, "write_bytes", write)
    with pytest.raises(OSError, match="no space"):
        finish(place(staging, read_info(made), target), target)
    assert "not an ftray model folder" in problem(Path(target.path)).problem
    monkeypatch.undo()
    finish(place(staging, read_info(made), target), target)
    published = read_info(target)
    assert published == read_info(made).model_copy(update={"files": published.files})
    assert set(published.files) == {"config.json", "vocab.txt", "zz-last-by-name.json"}
    assert MODEL_MANIFEST not in order
