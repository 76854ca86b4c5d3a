"""The training loop on real DeepSpeed over gloo, without Ray: one process and two, ZeRO 0 to 3.

A run is the same run however it is cut: over workers, over ZeRO stages, and by a resume. All is in
fp32 unless said otherwise.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ftray.data.batches import BatchPlan
from ftray.tasks import get_task
from tests.helpers.loop_runs import Data, Run, Seen, make_model, make_spec, seen, train_group

STAGES = (0, 1, 2, 3)
WORLDS = (1, 2)
TRAIN = {
    "epochs": 2,
    # 35 rows make batches of 16, 16 and 3: of the four chunks of the last one, three are empty,
    # and of two workers one has no row at all.
    "batch_size": 16,
    "micro_batch_size": 4,
    "learning_rate": 1e-2,
    "unfreeze": 2,
    "precision": "fp32",
}


def run(name: str, stage: int = 0, **changes: Any) -> Run:
    fields = {key: changes.pop(key) for key in ("resume", "dropout") if key in changes}
    return Run(name, {**TRAIN, "deepspeed": {"stage": stage}, **changes}, **fields)


def runs(world: int, folder: Path) -> list[Run]:
    made = []
    for stage in STAGES:
        made.append(run(f"{world}-stage-{stage}", stage))
        made.append(run(f"{world}-stage-{stage}-resumed", stage, resume=f"{world}-stage-{stage}/1"))
        if stage < 2:
            continue
        own = {"deepspeed": str(folder / f"bf16-{stage}.json"), "precision": "bf16"}
        made.append(run(f"{world}-bf16-{stage}", **own))
        made.append(run(f"{world}-bf16-{stage}-resumed", **own, resume=f"{world}-bf16-{stage}/1"))
    return [
        *made,
        run(f"{world}-two-chunks", micro_batch_size=8),
        run(f"{world}-without-dropout", dropout=0.0),
        run(f"{world}-clipped", dropout=0.0, clip=0.1),
        run(f"{world}-not-clipped", 2, dropout=0.0, clip=None, schedule="cosine"),
        *(run(f"{world}-unfreeze-{depth}", 2, unfreeze=depth) for depth in (0, "all")),
        run(f"{world}-autocast", 2, precision="bf16"),
        run(f"{world}-autocast-resumed", 2, precision="bf16", resume=f"{world}-autocast/1"),
        *(run(f"{world}-diverges-{stage}", stage, learning_rate=1e30) for stage in (0, 2, 3)),
        run(
            f"{world}-stops-early", 2, epochs=9, learning_rate=1e-12,
            early_stopping={"patience": 2},
        ),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all runs are, made once."""
    folder = tmp_path_factory.mktemp("runs")
    for stage in STAGES:
        content = {"bf16": {"enabled": True}, "zero_optimization": {"stage": stage}}
        (folder / f"bf16-{stage}.json").write_text(json.dumps(content))
    train_group(folder, 2, runs(2, folder))
    scaled = [run(f"2-to-1-stage-{stage}", stage, resume=f"2-stage-{stage}/1") for stage in STAGES]
    crossed = run("1-stage-2-to-3", 3, resume="1-stage-2/1")
    train_group(folder, 1, [*runs(1, folder), *scaled, crossed])
    return folder


@pytest.fixture
def of(root: Path) -> Callable[..., Seen]:
    return lambda name, rank=0: seen(root, name, rank)


def final(root: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(root / name / "final.safetensors")


def test_the_loss_falls(of: Callable[..., Seen]) -> None:
    found = of("1-stage-0")
    assert len(found.losses) == 6
    assert found.metrics[1]["train_loss"] < found.metrics[0]["train_loss"]
    assert found.losses[0] == pytest.approx(math.log(3), abs=0.1)


def test_two_workers_learn_as_one_does_to_the_bit(root: Path, of: Callable[..., Seen]) -> None:
    """With one chunk a worker the very same numbers are added up, in whichever order."""
    assert of("2-two-chunks").losses == of("1-two-chunks").losses
    one, two = final(root, "1-two-chunks"), final(root, "2-two-chunks")
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("stage", STAGES)
def test_two_workers_learn_as_one_does(of: Callable[..., Seen], stage: int) -> None:
    """Four chunks are added up in another order: within rounding."""
    one, two = of(f"1-stage-{stage}"), of(f"2-stage-{stage}")
    assert two.losses == pytest.approx(one.losses, abs=1e-5)
    assert two.rates == one.rates
    for mine, theirs in zip(one.metrics, two.metrics, strict=True):
        assert mine.keys() == theirs.keys()
        assert mine["accuracy"] == theirs["accuracy"]
        assert mine["loss"] == pytest.approx(theirs["loss"], abs=1e-5)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("stage", STAGES[1:])
def test_every_stage_learns_as_stage_0_does(
    of: Callable[..., Seen], world: int, stage: int
) -> None:
    plain, sharded = of(f"{world}-stage-0"), of(f"{world}-stage-{stage}")
    assert sharded.losses == pytest.approx(plain.losses, abs=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_ranks_agree_on_everything(of: Callable[..., Seen], stage: int) -> None:
    first, second = of(f"2-stage-{stage}", 0), of(f"2-stage-{stage}", 1)
    assert first == second
    assert len(first.metrics) == TRAIN["epochs"]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", [*(f"stage-{s}" for s in STAGES), "unfreeze-0", "unfreeze-all"])
def test_what_is_frozen_stays_bit_identical(of: Callable[..., Seen], world: int, name: str) -> None:
    found = of(f"{world}-{name}")
    assert found.moved == found.trainable
    base = {parameter for parameter, _ in make_model(run("any")).named_parameters()}
    frozen = base - set(found.trainable)
    if name == "unfreeze-all":
        assert not frozen
    else:
        assert any("embeddings" in parameter for parameter in frozen)
        assert "bert.encoder.layer.0.attention.self.query.weight" in frozen
    assert ("bert.encoder.layer.2.output.dense.weight" in frozen) == (name == "unfreeze-0")


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(
    ("name", "expected"), [("stage-2", [1, 2]), ("unfreeze-0", []), ("unfreeze-all", [0, 1, 2])]
)
def test_dropout_is_on_where_the_model_trains_and_off_below(
    of: Callable[..., Seen], world: int, name: str, expected: list[int]
) -> None:
    # BERT's attention asks its dropout for the rate alone and goes by its own mode.
    dropping = [n for n in of(f"{world}-{name}").dropping if not n.endswith("self.dropout")]
    blocks = {int(n.split(".")[3]) for n in dropping if ".layer." in n}
    assert sorted(blocks) == expected
    assert "dropout" in dropping, "that of the head"
    assert ("bert.embeddings.dropout" in dropping) == (name == "unfreeze-all")


CUT = [*(f"stage-{stage}" for stage in STAGES), "autocast", "bf16-2", "bf16-3"]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", CUT)
def test_a_resumed_run_ends_as_an_uninterrupted_one_to_the_bit(
    root: Path, of: Callable[..., Seen], world: int, name: str
) -> None:
    whole, resumed = f"{world}-{name}", f"{world}-{name}-resumed"
    assert of(resumed).losses == of(whole).losses[3:]
    assert of(resumed).rates == of(whole).rates[3:]
    assert of(resumed).metrics == of(whole).metrics[1:]
    assert of(resumed).digest == of(whole).digest
    for file in ("trainable.safetensors", "optimizer.safetensors"):
        one, two = load_file(root / whole / "2" / file), load_file(root / resumed / "2" / file)
        assert one.keys() == two.keys()
        assert [key for key in one if not torch.equal(one[key], two[key])] == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_of_two_workers_goes_on_with_one(of: Callable[..., Seen], stage: int) -> None:
    resumed = of(f"2-to-1-stage-{stage}")
    assert resumed.losses == pytest.approx(of(f"2-stage-{stage}").losses[3:], abs=1e-5)


def test_a_run_goes_on_under_another_stage(of: Callable[..., Seen]) -> None:
    assert of("1-stage-2-to-3").losses == pytest.approx(of("1-stage-2").losses[3:], abs=1e-5)


def test_a_checkpoint_holds_what_trains_and_no_pickle(root: Path, of: Callable[..., Seen]) -> None:
    for stage in STAGES:
        folder = root / f"2-stage-{stage}" / "1"
        names = sorted(path.name for path in folder.iterdir())
        assert names == ["optimizer.safetensors", "progress.json", "trainable.safetensors"]
        values = load_file(folder / "trainable.safetensors")
        moments = load_file(folder / "optimizer.safetensors")
        assert sorted(values) == of(f"2-stage-{stage}").trainable
        assert sorted(moments) == sorted(
            f"{n}/{k}" for n in values for k in ("exp_avg", "exp_avg_sq")
        )
        shapes = dict(make_model(run("any")).named_parameters())
        assert all(value.shape == shapes[name].shape for name, value in values.items())
        assert all(moments[f"{name}/exp_avg"].shape == shapes[name].shape for name in values)


@pytest.mark.parametrize("stage", STAGES)
def test_a_checkpoint_is_the_same_whatever_the_stage_and_the_workers(
    root: Path, stage: int
) -> None:
    for file in ("trainable.safetensors", "optimizer.safetensors"):
        expected = load_file(root / "1-stage-0" / "1" / file)
        for world in WORLDS:
            found = load_file(root / f"{world}-stage-{stage}" / "1" / file)
            for name in expected:
                if "key.bias" not in name:
                    assert torch.allclose(found[name], expected[name], atol=1e-4), name


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_loss_that_is_no_number_ends_the_run_with_its_weights_untouched(
    of: Callable[..., Seen], world: int, stage: int
) -> None:
    for rank in range(world):
        found = of(f"{world}-diverges-{stage}", rank)
        step = len(found.losses) + 1
        assert found.losses, "the first steps are sound"
        assert all(math.isfinite(loss) for loss in found.losses)
        assert f"the loss of step {step} (epoch 1)" in found.error
        assert found.error.startswith("train.learning_rate = 1e+30: ")
        assert "lower train.learning_rate" in found.error.lower()
        assert not found.touched
        assert found.metrics == []


@pytest.mark.parametrize("world", WORLDS)
def test_a_run_without_progress_stops_early(of: Callable[..., Seen], world: int) -> None:
    for rank in range(world):
        assert [entry["epoch"] for entry in of(f"{world}-stops-early", rank).metrics] == [1, 2, 3]


# ---- against plain PyTorch -----------------------------------------------------------------------


def by_hand(made: Run) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The same run in plain PyTorch: a batch is one forward pass and its mean loss one step."""
    spec, task = make_spec(made, 1), get_task("text-classification")
    train = made.train
    model = make_model(made).train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not ("embeddings" in name or "encoder.layer.0." in name))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim == 2], "weight_decay": 0.01},
            {"params": [p for p in trained if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=train["learning_rate"],
    )
    data = Data(made.rows).load("train")
    batches = BatchPlan(data.lengths, train["batch_size"], train["micro_batch_size"], spec.seed)
    order = [rows for epoch in range(train["epochs"]) for rows in batches.batches(epoch)]
    losses = []
    for step, rows in enumerate(order):
        # One of six steps warms up, and so is made at the peak.
        left = 1 - max(0, step - 1) / 5
        if train.get("schedule") == "cosine":
            left = (1 + math.cos(math.pi * (1 - left))) / 2
        for group in optimizer.param_groups:
            group["lr"] = train["learning_rate"] * left
        logits = model(**task.collate([data.ids_of(row) for row in rows], 0)).logits
        loss = nn.functional.cross_entropy(logits, torch.from_numpy(data.targets[rows]))
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(trained, train.get("clip", 1.0) or math.inf)
        assert norm > 0.1, "above the limit of the run that is clipped"
        optimizer.step()
        losses.append(loss.item())
    return losses, {name: value.detach() for name, value in model.named_parameters()}


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", ["without-dropout", "clipped", "not-clipped"])
def test_it_does_what_plain_pytorch_does(
    root: Path, of: Callable[..., Seen], world: int, name: str
) -> None:
    made = {made.name: made for made in runs(world, Path())}[f"{world}-{name}"]
    losses, parameters = by_hand(made)
    assert of(made.name).losses == pytest.approx(losses, abs=1e-5)
    found = final(root, made.name)
    for parameter, value in parameters.items():
        # The gradient of a key's bias is zero but for rounding, which Adam makes a full step of.
        if "key.bias" not in parameter:
            assert torch.allclose(found[parameter], value, atol=1e-4), parameter
