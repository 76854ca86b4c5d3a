"""What an export makes of trained values: the average of the best epochs, and calibrated logits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ftray.errors import FtrayError
from ftray.models.artifact.manifest import read_info
from ftray.spec.load import override, parse
from ftray.spec.sections.training import TrainSpec
from ftray.store.files.location import Location, locate
from ftray.tasks import get_task
from ftray.tasks.features import Batch
from ftray.train.checkpoint import stored
from ftray.train.checkpoint.manager import CheckpointManager
from ftray.train.engine.deepspeed_config import check_deepspeed
from ftray.train.engine.state import State, load_values
from ftray.train.evaluation.average import Average, greedy
from ftray.train.evaluation.temperature import divided, last_layer
from ftray.train.progress import Progress
from tests.helpers.models.encoded import write_encoded
from tests.helpers.models.exported import export_state
from tests.helpers.models.tiny_model import BASE
from tests.helpers.models.tiny_networks import (
    LABELS,
    SEEING,
    STACKED,
    UNSTACKED,
    tiny_batch,
    tiny_images,
    tiny_network,
)


def averaged(values: list[float], wanted: float, metric: str = "accuracy") -> Average:
    """The average of epochs of one number; the nearer to `wanted`, the better."""
    tensors = [{"w": torch.tensor([value]), "count": torch.tensor(7)} for value in values]
    sign = 1 if metric == "loss" else -1
    return greedy(
        range(1, len(values) + 1),
        tensors.__getitem__,
        lambda found: sign * abs(float(found["w"]) - wanted),
        TrainSpec.model_validate({"metric": metric}),
        {},
    )


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
@pytest.mark.parametrize(
    ("values", "epochs", "mean"),
    [
        ([1.5, 4.0, 2.0], (1, 3), 1.75),  # with 4.0: 2.75, worse than 1.5 alone
        ([1.0, 2.0, 3.0], (1, 2, 3), 2.0),
        ([2.0, 2.5, 1.0], (1,), 2.0),
        ([2.5], (1,), 2.5),
    ],
)
def test_an_epoch_joins_where_the_average_is_better_with_it(
    values: list[float], epochs: tuple[int, ...], mean: float, metric: str
) -> None:
    found = averaged(values, 2.0, metric)
    assert found.epochs == epochs
    assert float(found.values["w"]) == pytest.approx(mean)
    assert int(found.values["count"]) == 7
    assert (found.before == found.after) == (len(epochs) == 1)


def test_what_an_epoch_did_not_train_counts_as_in_the_base_model() -> None:
    parts = [{"head": torch.tensor([4.0])}, {"head": torch.tensor([2.0]), "w": torch.tensor([8.0])}]
    train, base = TrainSpec(), {"w": torch.tensor([0.0]), "head": torch.tensor([0.0])}
    found = greedy([1, 2], parts.__getitem__, lambda values: len(values), train, base)
    assert {name: float(value) for name, value in found.values.items()} == {"head": 3.0, "w": 4.0}


def kept(folder: Location, scores: list[float | None], count: int) -> list[int]:
    """Steps of the checkpoints that a run keeps whose epochs have these scores."""
    spec = TrainSpec().checkpoint.model_copy(update={"keep": 1})
    keeper = CheckpointManager(spec, folder, writes=True, best_epochs=count)
    best = -1.0
    for step, score in enumerate(scores, 1):
        rank = -1.0 if score is None or score <= best else float(step)
        best = max(best, score or -1.0)
        values = State({"w": torch.tensor([float(step)])})
        keeper.save(values, Progress(step=step, epoch=step), rank, score)
    keeper.wait()
    return [int(child.name.removeprefix("step-")) for child in folder.children()]


def test_the_checkpoints_of_the_best_epochs_are_kept(tmp_path: Path) -> None:
    scores = [0.1, 0.4, None, 0.3, 0.4, 0.2, None]
    assert kept(locate(str(tmp_path / "one")), scores, 1) == [2, 7]
    folder = locate(str(tmp_path / "three"))
    assert kept(folder, scores, 3) == [2, 4, 5, 7]
    assert [found.step for found in stored.best_epochs(folder, 3)] == [2, 5, 4]
    weights = Path(folder.path) / "step-00000005" / "trainable.safetensors"
    weights.write_bytes(b"broken")
    assert [found.step for found in stored.best_epochs(folder, 3)] == [2, 4]


def test_the_best_epoch_comes_first_also_where_an_older_ftray_kept_it(tmp_path: Path) -> None:
    folder = locate(str(tmp_path / "older"))
    kept(folder, [0.5, 0.4, 0.3], 3)
    manifest = Path(folder.path) / "step-00000001" / stored.MANIFEST
    told = json.loads(manifest.read_text())
    del told["score"]
    manifest.write_text(json.dumps(told))
    assert [found.step for found in stored.best_epochs(folder, 2)] == [1, 2]


def exported(folder: Path, heads: list[torch.Tensor], rows: int = 18, **keys: Any) -> Path:
    tree = {"name": "tiny", "model": {"name_or_path": BASE}, "data": {"train": "x"}}
    spec = override(parse(tree), {"data.max_length": 16, "train.metric": "loss", **keys})
    texts = [f"a text number {number}" for number in range(rows)]
    splits = {"train": texts[:6], "validation": texts[6 : rows - 6], "test": texts[-6:]}
    folder.mkdir(exist_ok=True)
    data = write_encoded(folder / "data", spec, splits)
    return export_state(folder, spec, data, *(State({"classifier.weight": h}) for h in heads))


def test_the_model_folder_has_the_average_and_says_so(tmp_path: Path) -> None:
    noise = torch.randn(3, 384, generator=torch.Generator().manual_seed(0))
    heads = [4 * noise, -3.9 * noise, 9 * noise]  # large logits of labels that nothing tells
    made = exported(tmp_path / "three", heads, **{"train.average": 3})
    assert read_info(locate(str(made))).averaged == (1, 2)
    weights = load_file(made / "model.safetensors")["classifier.weight"]
    assert torch.allclose(weights, 0.05 * noise, atol=1e-6)
    assert "the average of those after epochs 1, 2" in (made / "README.md").read_text()
    alone = exported(tmp_path / "one", heads)
    info = read_info(locate(str(alone)))
    assert torch.equal(load_file(alone / "model.safetensors")["classifier.weight"], heads[0])
    assert info.averaged == () and "average of those" not in (alone / "README.md").read_text()


@pytest.mark.parametrize("family", [*STACKED, *UNSTACKED, *SEEING])
def test_logits_of_every_family_are_divided_within_the_head(family: str) -> None:
    model = tiny_network(family)
    inputs = tiny_images() if family in SEEING else tiny_batch(rows=3)
    task = get_task("image-classification" if family in SEEING else "text-classification")
    name = last_layer(model, task, Batch(inputs, {}), LABELS)
    assert name is not None
    before = model(**inputs).logits
    load_values(model, divided({}, model.get_submodule(name), name, 2.5))
    assert torch.allclose(model(**inputs).logits, before / 2.5, atol=1e-6)


def test_a_model_that_changes_its_heads_output_is_left_alone() -> None:
    model, batch = tiny_network("bert"), Batch(tiny_batch(), {})
    model.register_forward_hook(lambda _, __, output: replace(output, logits=output.logits.tanh()))
    assert last_layer(model, get_task("text-classification"), batch, LABELS) is None


def test_probabilities_of_a_calibrated_model_are_less_sure(tmp_path: Path) -> None:
    head = [9 * torch.randn(3, 384, generator=torch.Generator().manual_seed(0))]
    plain = read_info(locate(str(exported(tmp_path / "plain", head, rows=72))))
    made = exported(tmp_path / "calibrated", head, rows=72, **{"train.calibrate": True})
    info = read_info(locate(str(made)))
    assert info.temperature is not None and info.temperature > 2
    weights = load_file(made / "model.safetensors")["classifier.weight"]
    assert torch.allclose(weights, head[0] / info.temperature)
    for split in ("validation", "test"):
        assert info.metrics[split]["accuracy"] == plain.metrics[split]["accuracy"]
        assert info.metrics[split]["loss"] < plain.metrics[split]["loss"] / 2
    sure = [max(item.numbers) for item in info.golden]
    assert max(sure) < 0.9 < max(max(item.numbers) for item in plain.golden)
    assert "Probabilities: calibrated" in (made / "README.md").read_text()


def test_few_rows_tell_no_temperature(tmp_path: Path) -> None:
    head = [torch.ones(3, 384)]
    made = exported(tmp_path, head, **{"train.calibrate": True})
    assert read_info(locate(str(made))).temperature is None


def test_weights_that_are_sharded_are_not_averaged() -> None:
    for key, value in {"average": 2, "calibrate": True}.items():
        train = TrainSpec.model_validate({key: value, "deepspeed": {"stage": 3}})
        check_deepspeed(train, workers=1)
        with pytest.raises(FtrayError, match=rf"train.{key} = .*: needs whole weights"):
            check_deepspeed(train, workers=2)
