"""The training loop on real DeepSpeed over gloo, without Ray: one process and two, ZeRO 0 to 3.

A run is the same run however it is cut: over workers, over ZeRO stages, and by a resume. All is in
fp32 unless said otherwise.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ftray.data.batches import BatchPlan
from ftray.tasks import get_task
from tests.helpers.loop_runs import (
    LABELS,
    Data,
    Run,
    Seen,
    checkpoint,
    make_model,
    make_spec,
    seen,
    train_group,
)

STAGES = (0, 1, 2, 3)
WORLDS = (1, 2)
# One worker has nobody to share its state with, and always runs at stage 0.
CASES = ((1, 0), (2, 0), (2, 1), (2, 2), (2, 3))
ENDS = ((1, 0), (2, 0), (2, 3))
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

PHASED: dict[str, Any] = {
    "epochs": 3,
    "unfreeze": [
        {"epoch": 0, "blocks": "head", "rate": 2},
        {"epoch": 1, "blocks": 1},
        {"epoch": 2, "blocks": "all"},
    ],
}
EVENED: dict[str, dict[str, Any]] = {
    "smoothed": {"label_smoothing": 0.2},
    "weighted": {"balance": "weights"},
    "sampled": {"balance": "sampling"},
}
OFFLOADED = (2, 3)
# Where a run in phases is resumed: at the start of one, or within.
FROM = {0: 4, 1: 3, 2: 4, 3: 3}
GROUPS = [{"match": "^classifier", "learning_rate": 0.05, "weight_decay": 0.5}]
LORA: dict[str, Any] = {"lora": {"rank": 4, "dropout": 0.1}}
DORA: dict[str, Any] = {"lora": {"rank": 4, "options": {"use_dora": True, "bias": "lora_only"}}}
LORA_PHASES = {**PHASED, **LORA}
REFROZEN = [{"epoch": 0, "blocks": "all"}, {"epoch": 1, "blocks": ["classifier", r"layer\.1\."]}]


def run(name: str, stage: int = 0, **changes: Any) -> Run:
    fields = {
        key: changes.pop(key)
        for key in ("resume", "dropout", "stop_after", "every", "rows")
        if key in changes
    }
    return Run(name, {**TRAIN, "deepspeed": {"stage": stage}, **changes}, **fields)


def runs(world: int, folder: Path) -> list[Run]:
    made = []
    stages, ends = ([stage for of, stage in cases if of == world] for cases in (CASES, ENDS))
    for stage in stages:
        made.append(run(f"{world}-stage-{stage}", stage))
        made.append(run(f"{world}-stage-{stage}-resumed", stage, resume=f"{world}-stage-{stage}/3"))
        phases = {**PHASED, "dropout": 0.0, "every": 1}
        made.append(run(f"{world}-phases-{stage}", stage, **phases))
        name, step = f"{world}-phases-{stage}", FROM[stage]
        made.append(run(f"{name}-resumed", stage, **phases, resume=f"{name}/{step}"))
        made.append(run(f"{world}-lora-{stage}", stage, **LORA))
    for stage in ends:
        made.append(run(f"{world}-refrozen-{stage}", stage, unfreeze=REFROZEN, every=1))
        made.append(run(f"{world}-stops-{stage}", stage, stop_after=2))
        made.append(run(f"{world}-goes-on-{stage}", stage, resume=f"{world}-stops-{stage}/2"))
        name = f"{world}-lora-{stage}"
        made.append(run(f"{name}-resumed", stage, **LORA, resume=f"{name}/3"))
        made.append(run(f"{world}-skips-{stage}", stage, learning_rate=1e30, skip_nonfinite=99))
    for stage in (2, 3):
        own = {"deepspeed": str(folder / f"bf16-{stage}.json"), "precision": "bf16"}
        made.append(run(f"{world}-bf16-{stage}", **own))
        made.append(run(f"{world}-bf16-{stage}-resumed", **own, resume=f"{world}-bf16-{stage}/3"))
    return [
        *made,
        run(f"{world}-two-chunks", micro_batch_size=8),
        run(f"{world}-without-dropout", dropout=0.0),
        run(f"{world}-clipped", dropout=0.0, clip=0.1),
        run(f"{world}-not-clipped", 2, dropout=0.0, clip=None, schedule="cosine"),
        *(run(f"{world}-unfreeze-{depth}", 2, unfreeze=depth) for depth in (0, "all")),
        run(f"{world}-autocast", 2, precision="bf16"),
        run(f"{world}-autocast-resumed", 2, precision="bf16", resume=f"{world}-autocast/3"),
        run(f"{world}-rates", dropout=0.0, layer_decay=0.5, groups=GROUPS),
        run(f"{world}-rates-resumed", dropout=0.0, layer_decay=0.5, groups=GROUPS,
            resume=f"{world}-rates/3"),
        run(f"{world}-dora", 3, **DORA),
        run(f"{world}-dora-resumed", 3, **DORA, resume=f"{world}-dora/3"),
        *(run(f"{world}-lora-phases-{stage}", stage, **LORA_PHASES) for stage in ends),
        run(f"{world}-lora-phases-{ends[-1]}-resumed", ends[-1], **LORA_PHASES,
            resume=f"{world}-lora-phases-{ends[-1]}/6"),
        *(run(f"{world}-diverges-{stage}", stage, learning_rate=1e30) for stage in ends),
        *(run(f"{world}-{name}", dropout=0.0, **changes) for name, changes in EVENED.items()),
        run(f"{world}-fewer-tokens", dropout=0.0, token_dropout=0.9),
        run(f"{world}-fewer-tokens-resumed", dropout=0.0, token_dropout=0.9,
            resume=f"{world}-fewer-tokens/3"),
        run(f"{world}-by-heart", epochs=8, dropout=0.0, every=99),
        run(f"{world}-guarded", epochs=1, learning_rate=1e-12, balance="weights",
            label_smoothing=0.5, token_dropout=0.5),
        *(run(f"{world}-recomputes-{stage}", stage, gradient_checkpointing=True)
          for stage in ends),
        *(run(f"{world}-offload-{stage}", deepspeed={"stage": stage, "offload": "cpu"})
          for stage in OFFLOADED),
        *(run(f"{world}-offload-{stage}-resumed", deepspeed={"stage": stage, "offload": "cpu"},
              resume=f"{world}-offload-{stage}/3") for stage in OFFLOADED),
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
    crossed = run("2-stage-2-to-3", 3, resume="2-stage-2/3")
    train_group(folder, 2, [*runs(2, folder), crossed])
    scaled = [run(f"2-to-1-stage-{stage}", stage, resume=f"2-stage-{stage}/3") for stage in STAGES]
    train_group(folder, 1, [*runs(1, folder), *scaled])
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
    one, two = of("1-stage-0"), of(f"2-stage-{stage}")
    assert two.losses == pytest.approx(one.losses, abs=1e-5)
    assert two.rates == one.rates
    for mine, theirs in zip(one.metrics, two.metrics, strict=True):
        assert mine.keys() == theirs.keys()
        assert mine["accuracy"] == theirs["accuracy"]
        assert mine["loss"] == pytest.approx(theirs["loss"], abs=1e-5)


@pytest.mark.parametrize(("world", "stage"), CASES[2:])
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


DEPTHS = [f"{world}-unfreeze-{depth}" for world in WORLDS for depth in (0, "all")]


@pytest.mark.parametrize("name", [*(f"{world}-stage-{stage}" for world, stage in CASES), *DEPTHS])
def test_what_is_frozen_stays_bit_identical(of: Callable[..., Seen], name: str) -> None:
    found, name = of(name), name[2:]
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
    ("name", "expected"), [("stage-0", [1, 2]), ("unfreeze-0", []), ("unfreeze-all", [0, 1, 2])]
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


CUT = [
    *(f"{world}-stage-{stage}" for world, stage in CASES),
    *(f"{world}-{name}" for world in WORLDS for name in ("autocast", "bf16-2", "bf16-3")),
]


@pytest.mark.parametrize("whole", CUT)
def test_a_resumed_run_ends_as_an_uninterrupted_one_to_the_bit(
    root: Path, of: Callable[..., Seen], whole: str
) -> None:
    resumed = f"{whole}-resumed"
    assert of(resumed).losses == of(whole).losses[3:]
    assert of(resumed).rates == of(whole).rates[3:]
    assert of(resumed).metrics == of(whole).metrics[1:]
    assert of(resumed).digest == of(whole).digest
    for file in ("trainable.safetensors", "optimizer.safetensors"):
        one = load_file(checkpoint(root, f"{whole}/6") / file)
        two = load_file(checkpoint(root, f"{resumed}/6") / file)
        assert one.keys() == two.keys()
        assert [key for key in one if not torch.equal(one[key], two[key])] == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_of_two_workers_goes_on_with_one(of: Callable[..., Seen], stage: int) -> None:
    resumed = of(f"2-to-1-stage-{stage}")
    assert resumed.losses == pytest.approx(of(f"2-stage-{stage}").losses[3:], abs=1e-5)


def test_a_run_goes_on_under_another_stage(of: Callable[..., Seen]) -> None:
    assert of("2-stage-2-to-3").losses == pytest.approx(of("2-stage-2").losses[3:], abs=1e-5)


def test_a_checkpoint_holds_what_trains_and_no_pickle(root: Path, of: Callable[..., Seen]) -> None:
    for stage in STAGES:
        folder = checkpoint(root, f"2-stage-{stage}/3")
        names = sorted(path.name for path in folder.iterdir())
        assert names == [
            "manifest.json", "optimizer.safetensors", "progress.json", "trainable.safetensors",
        ]  # fmt: skip
        values = load_file(folder / "trainable.safetensors")
        moments = load_file(folder / "optimizer.safetensors")
        assert sorted(values) == of(f"2-stage-{stage}").trainable
        assert sorted(moments) == sorted(
            f"{n}/{k}" for n in values for k in ("exp_avg", "exp_avg_sq", "updates")
        )
        shapes = dict(make_model(run("any")).named_parameters())
        assert all(value.shape == shapes[name].shape for name, value in values.items())
        assert all(moments[f"{name}/exp_avg"].shape == shapes[name].shape for name in values)


@pytest.mark.parametrize("stage", STAGES)
def test_a_checkpoint_is_the_same_whatever_the_stage_and_the_workers(
    root: Path, stage: int
) -> None:
    for file in ("trainable.safetensors", "optimizer.safetensors"):
        expected = load_file(checkpoint(root, "1-stage-0/3") / file)
        found = load_file(checkpoint(root, f"2-stage-{stage}/3") / file)
        for name in expected:
            if "key.bias" not in name:
                assert torch.allclose(found[name], expected[name], atol=1e-4), name


@pytest.mark.parametrize(("world", "stage"), ENDS)
def test_a_loss_that_is_no_number_ends_the_run_with_its_weights_untouched(
    of: Callable[..., Seen], world: int, stage: int
) -> None:
    for rank in range(world):
        found = of(f"{world}-diverges-{stage}", rank)
        step = len(found.losses) + 1
        assert found.losses, "the first steps are sound"
        assert all(math.isfinite(loss) for loss in found.losses)
        assert f"in step {step} (epoch 1)" in found.error
        assert found.error.startswith("train.learning_rate = 1e+30: ")
        assert "lower train.learning_rate" in found.error.lower()
        assert not found.touched
        assert found.metrics == []


@pytest.mark.parametrize("world", WORLDS)
def test_a_run_without_progress_stops_early(of: Callable[..., Seen], world: int) -> None:
    for rank in range(world):
        assert [entry["epoch"] for entry in of(f"{world}-stops-early", rank).metrics] == [1, 2, 3]


@pytest.mark.parametrize(("world", "stage"), ENDS)
def test_a_stopped_run_saves_first_and_goes_on_to_the_bit(
    of: Callable[..., Seen], world: int, stage: int
) -> None:
    for rank in range(world):
        assert "interrupted after step 2 of 6" in of(f"{world}-stops-{stage}", rank).error
    whole, resumed = of(f"{world}-stage-{stage}"), of(f"{world}-goes-on-{stage}")
    assert resumed.losses == whole.losses[2:]
    assert resumed.metrics == whole.metrics, "the mean loss of an epoch is that of all its rows"
    assert resumed.digest == whole.digest


@pytest.mark.parametrize(("world", "stage"), ENDS)
def test_updates_that_are_not_finite_can_be_skipped(
    of: Callable[..., Seen], world: int, stage: int
) -> None:
    found = of(f"{world}-skips-{stage}")
    assert len(found.losses) == 6
    broken = [loss for loss in found.losses if not math.isfinite(loss)]
    assert 0 < len(broken) <= found.skipped < 6
    assert not found.error


@pytest.mark.parametrize(("world", "stage"), ENDS)
def test_activations_computed_again_are_the_same(
    of: Callable[..., Seen], world: int, stage: int
) -> None:
    """Dropout included, and with frozen blocks below."""
    again, kept = of(f"{world}-recomputes-{stage}"), of(f"{world}-stage-{stage}")
    assert again.losses == pytest.approx(kept.losses, abs=1e-6)
    assert again.trainable == again.moved == kept.moved


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("stage", OFFLOADED)
def test_an_offloaded_optimizer_takes_the_same_steps(
    root: Path, of: Callable[..., Seen], world: int, stage: int
) -> None:
    whole, resumed = of(f"{world}-offload-{stage}"), of(f"{world}-offload-{stage}-resumed")
    assert whole.losses == pytest.approx(of("1-stage-0").losses, abs=1e-5)
    assert whole.moved == whole.trainable
    assert resumed.losses == whole.losses[3:]
    assert resumed.digest == whole.digest


# ---- guards against overfitting, and skewed labels -----------------------------------------------


@pytest.mark.parametrize("name", [*EVENED, "fewer-tokens"])
def test_two_workers_learn_as_one_does_under_every_guard(
    of: Callable[..., Seen], name: str
) -> None:
    one, two = of(f"1-{name}"), of(f"2-{name}")
    assert two.losses == pytest.approx(one.losses, abs=1e-5)
    without = of("2-without-dropout").losses
    assert two.losses != pytest.approx(without, abs=3e-5), "it does something"


@pytest.mark.parametrize("world", WORLDS)
def test_a_resumed_run_leaves_out_the_same_tokens(of: Callable[..., Seen], world: int) -> None:
    whole, resumed = of(f"{world}-fewer-tokens"), of(f"{world}-fewer-tokens-resumed")
    assert resumed.losses == whole.losses[3:]
    assert resumed.digest == whole.digest


@pytest.mark.parametrize("world", WORLDS)
def test_guards_leave_evaluation_alone(of: Callable[..., Seen], world: int) -> None:
    guarded, plain = of(f"{world}-guarded").metrics[0], of(f"{world}-stops-early").metrics[0]
    assert guarded["loss"] == pytest.approx(plain["loss"], abs=1e-6)
    assert guarded["f1_macro"] == plain["f1_macro"]


@pytest.mark.parametrize("world", WORLDS)
def test_a_run_that_overfits_says_so_once_and_on_every_rank(
    of: Callable[..., Seen], world: int
) -> None:
    """Random labels can only be learnt by heart."""
    for rank in range(world):
        (line,) = of(f"{world}-by-heart", rank).warnings
        assert "overfits" in line
        assert of(f"{world}-stops-early", rank).warnings == []


# ---- phases: what trains changes on the way ------------------------------------------------------


def held(root: Path, reference: str) -> dict[str, torch.Tensor]:
    return load_file(checkpoint(root, reference) / "trainable.safetensors")


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in after if name not in before or before[name].ne(after[name]).any()}


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
            logits = model(**task.collate([data.ids_of(row) for row in rows], 0)).logits
            loss = nn.functional.cross_entropy(logits, torch.from_numpy(data.targets[rows]))
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


# ---- LoRA: adapters train in place of the blocks' own weights ------------------------------------


@pytest.mark.parametrize(("world", "stage"), CASES)
def test_adapters_learn_alike_however_the_run_is_cut(
    of: Callable[..., Seen], world: int, stage: int
) -> None:
    expected = of("1-lora-0")
    assert expected.losses[-1] != pytest.approx(of("1-stage-0").losses[-1], abs=1e-4)
    assert of(f"{world}-lora-{stage}").losses == pytest.approx(expected.losses, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "step"),
    [
        *((f"{world}-lora-{stage}", 3) for world, stage in ENDS),
        *((f"{world}-dora", 3) for world in WORLDS),
        ("1-lora-phases-0", 6),
        ("2-lora-phases-3", 6),
    ],
)
def test_a_resumed_run_of_adapters_ends_the_same(
    root: Path, of: Callable[..., Seen], name: str, step: int
) -> None:
    whole, resumed = of(name), of(f"{name}-resumed")
    assert resumed.losses == whole.losses[step:]
    assert resumed.digest == whole.digest
    last = len(whole.losses)
    one, two = held(root, f"{name}/{last}"), held(root, f"{name}-resumed/{last}")
    assert one.keys() == two.keys()
    assert all(value.equal(two[key]) for key, value in one.items())


@pytest.mark.parametrize(("world", "stage"), CASES)
def test_adapters_and_head_move_and_the_base_stays_as_it_was(
    root: Path, of: Callable[..., Seen], world: int, stage: int
) -> None:
    found, values = of(f"{world}-lora-{stage}"), final(root, f"{world}-lora-{stage}")
    adapters = {name for name in values if ".lora_" in name}
    assert {int(name.split(".")[3]) for name in adapters} == {1, 2}
    head = {n for n in values if n.startswith(("classifier.", "bert.pooler."))}
    assert set(found.moved) == set(found.trainable) == adapters | head
    assert all(values[name].any() for name in adapters), "B has left zero"
    assert set(held(root, f"{world}-lora-{stage}/6")) == adapters | head


@pytest.mark.parametrize(("world", "stage"), ENDS)
def test_each_phase_trains_the_adapters_of_its_blocks(
    root: Path, of: Callable[..., Seen], world: int, stage: int
) -> None:
    name = f"{world}-lora-phases-{stage}"
    assert of(name).phases == [0, 3, 6]
    assert of(name).losses == pytest.approx(of("1-lora-phases-0").losses, abs=1e-5)
    blocks = []
    for step in (3, 6, 9):
        names = held(root, f"{name}/{step}")
        assert all(".lora_" in n for n in names if ".layer." in n)
        blocks.append({int(n.split(".")[3]) for n in names if ".layer." in n})
    assert blocks == [set(), {2}, {0, 1, 2}]
    assert not any("embeddings" in n for n in of(name).moved)


# ---- against plain PyTorch -----------------------------------------------------------------------


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
    weights = len(data) / (len(LABELS) * np.bincount(data.targets)[data.targets])
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
        logits = model(**task.collate([data.ids_of(row) for row in rows], 0)).logits
        smoothing = train.get("label_smoothing", 0.0)
        loss = nn.functional.cross_entropy(
            logits,
            torch.from_numpy(data.targets[rows]),
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
