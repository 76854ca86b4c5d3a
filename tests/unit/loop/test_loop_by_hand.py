"""The training loop against plain PyTorch that does the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ftray.data.batches import BatchPlan
from ftray.tasks import get_task
from tests.helpers.training.loop_cases import EVENED, WORLDS, final, runs
from tests.helpers.training.loop_runs import (
    LABELS,
    Data,
    Run,
    Seen,
    make_model,
    make_spec,
    task_setup,
)


def _rates(model: Any, train: dict[str, Any]) -> Iterator[tuple[nn.Parameter, float, float]]:
    """Each parameter that trains, its weight decay, and its rate over the run's."""
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        block = name.split(".")[3] if ".layer." in name else "3"
        scale = train.get("layer_decay", 1.0) ** (3 - int(block))
        decay = 0.01 if parameter.ndim == 2 else 0.0
        if train.get("groups") and name.startswith("classifier"):
            decay, scale = 0.5, 5.0
        yield parameter, decay, scale


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
            {"params": [p], "weight_decay": decay, "scale": scale}
            for p, decay, scale in _rates(model, train)
        ]
    )
    data = Data(made.rows).load("train")
    # As the documentation puts it: N / (C * n) of each label.
    labels = data.column("labels")
    weights = len(data) / (len(LABELS) * np.bincount(labels)[labels])
    chances = weights if train.get("balance") == "sampling" else None
    sizes = train["batch_size"], train["micro_batch_size"]
    batches = BatchPlan(data.lengths, *sizes, spec.seed, chances)
    order = [rows for epoch in range(train["epochs"]) for rows in batches.batches(epoch)]
    losses = []
    for step, rows in enumerate(order):
        # One of six steps warms up, and so is made at the peak.
        left = 1 - max(0, step - 1) / 5
        if train.get("schedule") == "cosine":
            left = (1 + math.cos(math.pi * (1 - left))) / 2
        for group in optimizer.param_groups:
            group["lr"] = train["learning_rate"] * left * group["scale"]
        logits = model(**task.collate(task_setup(), data.examples(rows)).inputs).logits
        smoothing = train.get("label_smoothing", 0.0)
        loss = nn.functional.cross_entropy(
            logits,
            torch.from_numpy(labels[rows]),
            label_smoothing=smoothing,
            reduction="none",
        )
        own = torch.from_numpy(weights[rows] if train.get("balance") == "weights" else rows * 0 + 1)
        loss = (loss * own).sum() / own.sum()
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(trained, train.get("clip", 1.0) or math.inf)
        assert "clip" not in train or norm > 0.1, "above the limit of the run that is clipped"
        optimizer.step()
        losses.append(loss.item())
    return losses, {name: value.detach() for name, value in model.named_parameters()}


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", ["without-dropout", "clipped", "not-clipped", *EVENED])
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


@pytest.mark.parametrize("world", WORLDS)
def test_rates_by_depth_and_by_group(root: Path, of: Callable[..., Seen], world: int) -> None:
    made = {made.name: made for made in runs(world, Path())}[f"{world}-rates"]
    losses, parameters = by_hand(made)
    assert of(made.name).losses == pytest.approx(losses, abs=1e-5)
    found = final(root, made.name)
    assert of(f"{world}-rates-resumed").digest == of(made.name).digest
    for parameter, value in parameters.items():
        if "key.bias" not in parameter:
            assert torch.allclose(found[parameter], value, atol=1e-4), parameter
