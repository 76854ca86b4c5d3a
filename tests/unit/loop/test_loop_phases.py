"""Phases: what trains changes on the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ftray.data.batches import BatchPlan
from ftray.tasks import get_task
from tests.helpers.training.loop_cases import CASES, ENDS, FROM, final, held, moved, run, runs
from tests.helpers.training.loop_runs import (
    Data,
    Run,
    Seen,
    checkpoint,
    make_model,
    make_spec,
    task_setup,
)


@pytest.mark.parametrize(("world", "stage"), CASES)
def test_in_each_phase_exactly_what_it_names_moves(
    root: Path, of: Callable[..., Seen], world: int, stage: int
) -> None:
    name = f"{world}-phases-{stage}"
    found = of(name)
    assert found.phases == [0, 3, 6]
    base = {n: p.detach() for n, p in make_model(run("any", dropout=0.0)).named_parameters()}
    head, top, whole = (held(root, f"{name}/{step}") for step in (3, 6, 9))
    first = {n for n in base if n.startswith(("classifier.", "bert.pooler."))}
    block = {n for n in base if ".layer.2." in n}
    assert set(head) == first == {n for n in head if head[n].ne(base[n]).any()}
    assert set(top) == first | block == moved(head, {n: top[n] for n in top})
    assert {n for n in block if top[n].equal(base[n])} == set(), "all of the block moved"
    assert set(whole) == set(base) == moved(top, whole)
    end = final(root, name)
    assert all(end[n].equal(whole[n]) for n in whole)


@pytest.mark.parametrize(("world", "stage"), ENDS)
def test_what_is_frozen_again_stays_as_it_was_trained(root: Path, world: int, stage: int) -> None:
    name = f"{world}-refrozen-{stage}"
    first, last = held(root, f"{name}/3"), held(root, f"{name}/6")
    again = {n for n in first if n.startswith("classifier.") or ".layer.1." in n}
    assert moved(first, last) == again
    moments = load_file(checkpoint(root, f"{name}/6") / "optimizer.safetensors")
    assert {n.rpartition("/")[0] for n in moments} == again
    assert all(int(value) == 6 for n, value in moments.items() if n.endswith("/updates"))


@pytest.mark.parametrize(("world", "stage"), CASES)
def test_a_run_resumed_at_or_within_a_phase_ends_the_same(
    of: Callable[..., Seen], world: int, stage: int
) -> None:
    whole, resumed = of(f"{world}-phases-{stage}"), of(f"{world}-phases-{stage}-resumed")
    assert resumed.losses == whole.losses[FROM[stage] :]
    assert resumed.digest == whole.digest


def by_hand_in_phases(made: Run) -> tuple[list[float], list[dict[str, Any]], dict[str, Any]]:
    """PHASED in plain PyTorch, with one optimizer that gets a group more in each phase. Returns
    losses, the optimizer's state by name after each step, and the parameters."""
    spec, task = make_spec(made, 1), get_task("text-classification")
    model = make_model(made)
    named = dict(model.named_parameters())
    layers = [
        [n for n in named if n.startswith(("classifier.", "bert.pooler."))],
        [n for n in named if ".layer.2." in n],
        [n for n in named if "embeddings" in n or ".layer.0." in n or ".layer.1." in n],
    ]
    for parameter in named.values():
        parameter.requires_grad_(False)
    data = Data(made.rows).load("train")
    batches = BatchPlan(data.lengths, 16, 4, spec.seed)
    optimizer: Any = None
    losses, states, step = [], [], 0
    for epoch, names in enumerate(layers):
        for matrices in (True, False):
            members = [named[n].requires_grad_() for n in names if (named[n].ndim > 1) == matrices]
            group = {"params": members, "weight_decay": 0.01 if matrices else 0.0}
            if optimizer is None:
                optimizer = torch.optim.AdamW([group])
            else:
                optimizer.add_param_group(group)
        for rows in batches.batches(epoch):
            for group in optimizer.param_groups:
                group["lr"] = 1e-2 * (1 - max(0, step - 1) / 8) * (2 if epoch == 0 else 1)
            logits = model(**task.collate(task_setup(), data.examples(rows)).inputs).logits
            labels = torch.from_numpy(data.column("labels")[rows])
            loss = nn.functional.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_([p for p in named.values() if p.grad is not None], 1.0)
            optimizer.step()
            losses.append(loss.item())
            step += 1
            states.append(
                {
                    n: {k: v.clone() for k, v in optimizer.state[p].items()}
                    for n, p in named.items()
                    if p in optimizer.state
                }
            )
    return losses, states, {name: value.detach() for name, value in named.items()}


@pytest.mark.parametrize(("world", "stage"), CASES)
def test_phases_do_what_plain_pytorch_does_by_hand(
    root: Path, of: Callable[..., Seen], world: int, stage: int
) -> None:
    made = {made.name: made for made in runs(world, Path())}[f"{world}-phases-{stage}"]
    losses, states, parameters = by_hand_in_phases(made)
    assert of(made.name).losses == pytest.approx(losses, abs=1e-5)
    found = final(root, made.name)
    for name, value in parameters.items():
        if "key.bias" not in name:
            assert torch.allclose(found[name], value, atol=1e-4), name
    for step in (4, 7, 9):
        moments = load_file(checkpoint(root, f"{made.name}/{step}") / "optimizer.safetensors")
        expected = states[step - 1]
        assert {n.rpartition("/")[0] for n in moments} == set(expected)
        for name, state in expected.items():
            assert int(moments[f"{name}/updates"]) == int(state["step"]), name
            close = torch.allclose(moments[f"{name}/exp_avg"], state["exp_avg"], atol=1e-5)
            assert close or "key.bias" in name, name
