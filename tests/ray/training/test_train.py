"""Training on a real Ray with real DeepSpeed: results, baselines, export and failing runs."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ftray.errors import ClusterError, RunFailed
from ftray.models.artifact.manifest import read_info
from ftray.models.inference.predictor import Predictor
from ftray.models.pretrained import find_pretrained
from ftray.spec.load import parse
from ftray.store.files.location import locate
from ftray.train.check import check_inputs
from ftray.train.export import export, solo
from ftray.train.orders import BASELINES, Export
from ftray.train.run import Trained, prepare
from tests.helpers.training.small_runs import Events, losses, train_here, tree, weights

pytestmark = pytest.mark.usefixtures("ray_cluster")

ALONE: dict[str, Any] = {"scale": {"workers": 1}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("train")


def test_a_run_learns_and_leaves_what_the_design_says(plain: Trained, plain_events: Events) -> None:
    result = plain.to_json()
    assert result["metrics"]["test"]["accuracy"] > 0.8
    assert result["version"] >= 1
    steps = [e["step"] for e in plain_events if e["kind"] == "step"]
    assert steps == list(range(1, len(steps) + 1))
    assert [e["epoch"] for e in plain_events if e["kind"] == "epoch"] == [1, 2, 3]
    run_dir = Path(result["run_dir"])
    assert json.loads((run_dir / "status.json").read_text())["state"] == "done"
    assert list(losses(run_dir)) == steps
    assert parse(plain.run.spec_tree()).train.unfreeze == 1


def test_the_model_folder_opens_with_plain_transformers(plain: Trained) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = plain.version.folder.path
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = ["a wonderful warm film", "dull and lifeless", "the plot"]
    with torch.no_grad():
        logits = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    predictor = Predictor(locate(folder))
    found = torch.stack([outputs["logits"] for ((_, outputs),) in predictor.run(texts)])
    assert torch.allclose(torch.softmax(logits, -1), torch.softmax(found, -1), atol=1e-5)
    predictor.check_golden()
    info = read_info(locate(folder))
    assert info.labels == ("negative", "positive") == tuple(model.config.id2label.values())


def test_blocks_below_the_boundary_are_the_base_models_bit_by_bit(plain: Trained) -> None:
    base = load_file(find_pretrained(parse(tree(Path("/tmp"))).model).folder / "model.safetensors")
    trained = weights(plain.version.folder.path)
    moved, kept = [], []
    for name, value in base.items():
        if (found := trained.get(f"bert.{name}")) is not None:
            (kept if torch.equal(value, found) else moved).append(name)
    assert all(name.startswith(("encoder.layer.5.", "pooler.")) for name in moved)
    assert any(name.startswith("encoder.layer.5.") for name in moved)
    assert any(name.startswith("embeddings.") for name in kept)


@pytest.mark.slow
def test_one_worker_with_the_trunk_cache_learns_as_two_without(
    plain: Trained, tmp_path: Path
) -> None:
    kept = {"trunk_cache": "on", "trunk_precision": "fp32", "baselines": True}
    events: Events = []
    other = train_here(tree(tmp_path, train=kept, **ALONE), events)
    assert next(event["trunk"] for event in events if event["kind"] == "start") == 5
    (folder,) = (tmp_path / "storage" / "cache" / "trunk").iterdir()
    assert (folder / "manifest.json").is_file()
    expected = losses(plain.run.location.path)
    assert losses(other.run.location.path) == pytest.approx(expected, abs=1e-5)
    wanted = weights(plain.version.folder.path)
    for name, value in weights(other.version.folder.path).items():
        # The bias of a key projection has no effect: its gradient is rounding error, which Adam
        # turns into steps.
        assert name.endswith("key.bias") or torch.allclose(value, wanted[name], atol=1e-4), name
    found = (other.run.location / BASELINES).read_bytes()
    assert found == (plain.run.location / BASELINES).read_bytes(), "nor do baselines depend on it"


def test_a_run_says_what_training_has_to_beat_and_by_how_much_it_did(
    plain: Trained, plain_events: Events
) -> None:
    events = [event for event in plain_events if event["kind"] != "stage"]
    kinds = [event["kind"] for event in events]
    assert kinds[:2] == ["baseline", "start"] and kinds.count("baseline") == 1
    before = events[0]
    assert before["probe"]["accuracy"] > before["majority"]["accuracy"] == 0.5
    kept = [line for line in plain.run.metrics() if line["kind"] == "baseline"]
    assert [{k: v for k, v in each.items() if k != "at"} for each in kept] == [before]

    worth = plain.info.baselines
    assert worth is not None
    assert plain.to_json()["metrics"]["baselines"] == json.loads(worth.model_dump_json())
    test = plain.info.metrics["test"]
    with (Path(plain.version.folder.path) / "per_label.csv").open() as file:
        labels = [line for line in csv.DictReader(file) if line["split"] == "test"]
    assert worth.rows == sum(int(line["rows"]) for line in labels)
    right = sum(float(line["recall"]) * int(line["rows"]) for line in labels)
    assert right / worth.rows == pytest.approx(test["accuracy"])
    wrong = sum(pair["rows"] for pair in test["confused"])
    assert 1 - wrong / worth.rows == pytest.approx(test["accuracy"])
    assert worth.tuned["accuracy"].value == pytest.approx(test["accuracy"])
    assert worth.tuned["f1_macro"].value == pytest.approx(test["f1_macro"])
    assert worth.majority["accuracy"].value == 0.5
    for model in (worth.majority, worth.probe, worth.tuned):
        assert model["accuracy"].low <= model["accuracy"].value <= model["accuracy"].high
    assert worth.over_majority["accuracy"].low > 0
    steps = sum(event["seconds"] for event in events if event["kind"] == "step")
    assert steps < worth.seconds < plain.seconds["total"], "the export is not part of the training"
    assert worth.worker_hours == pytest.approx(2 * worth.seconds / 3600)
    card = (Path(plain.version.folder.path) / "README.md").read_text()
    assert worth.card() in card


def test_a_run_without_baselines_is_exported_all_the_same(plain: Trained, tmp_path: Path) -> None:
    checked = check_inputs(parse(plain.info.spec))
    target, nothing = locate(str(tmp_path / "model")), locate(str(tmp_path / BASELINES))
    kept = plain.run.location / "checkpoints"
    order = Export(checked.spec, prepare(checked).data, kept, target, "again", (), nothing)
    export(order, solo())
    info = read_info(target)
    assert info.baselines is None
    assert info.metrics == plain.info.metrics
    assert "linear probe" not in (tmp_path / "model" / "README.md").read_text()


def test_a_diverging_run_stops_at_once_says_so_intact_and_registers_nothing(folder: Path) -> None:
    events: Events = []
    wild = {"learning_rate": 1e30, "clip": None}
    with pytest.raises(RunFailed) as caught:
        train_here(tree(folder, name="diverged", train=wild, **ALONE), events)
    (problem,) = caught.value.problems
    assert problem.key == "train.learning_rate" and float(problem.value) == 1e30
    assert [event["kind"] for event in events].count("start") == 1, "no retry mends that"
    storage = folder / "storage"
    assert not (storage / "models" / "diverged").exists()
    (status,) = (storage / "runs" / "diverged").glob("*/status.json")
    assert json.loads(status.read_text())["state"] == "failed"
    assert not list(storage.glob(f"runs/diverged/*/{BASELINES}")), "nor were any wanted"


def test_a_cluster_too_small_is_said_before_anything_is_written(folder: Path) -> None:
    spec = tree(folder, name="too-large", train={"batch_size": 512}, scale={"workers": 64})
    spec["train"]["micro_batch_size"] = "auto"
    with pytest.raises(ClusterError, match="scale.workers = 64.*room for 2"):
        train_here(spec)
    assert not (folder / "storage" / "runs" / "too-large").exists()
