"""The memory of a worker: the graph that is followed without numbers, and DeepSpeed's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ftray.errors import NoEstimate
from ftray.models.pretrained import Pretrained
from ftray.models.structure.blocks import plan_freeze
from ftray.spec.load import parse
from ftray.spec.schema import Spec
from ftray.tasks.schema import Schema
from ftray.train.memory.estimate import FULL, PROCESS, Layout, reserve, worker_memory
from ftray.train.memory.preflight import Budget, Planner
from ftray.train.memory.simulate import MemoryTrace, trace_phases
from tests.helpers.models.tiny_generator import make_tokenizer
from tests.helpers.models.tiny_networks import BLOCKS, STACKED, tiny_batch, tiny_network

SCHEMA = Schema(labels=("bad", "good", "mixed"))
ROWS, TOKENS = 4, 32
# Their forward passes look at values.
UNFOLLOWED = {"modernbert"}


def spec_of(folder: Path, workers: int = 2, **train: Any) -> Spec:
    settings = {"batch_size": 16, "micro_batch_size": ROWS, "precision": "fp32", **train}
    return parse(
        {
            "name": "memory",
            "model": {"name_or_path": str(folder)},
            "data": {"train": "unused", "max_length": TOKENS},
            "train": settings,
            "scale": {"workers": workers},
        }
    )


def config_of(family: str, folder: Path, **options: Any) -> Path:
    """A model folder without weights."""
    tiny_network(family, **options).config.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def traces(spec: Spec, autocast: bool = False) -> list[MemoryTrace]:
    folder = Path(spec.model.name_or_path)
    return trace_phases(spec, Pretrained(spec.model, folder), SCHEMA, ROWS, autocast)


def really_saved(family: str, unfreeze: Any, autocast: bool) -> int:
    """Bytes that autograd keeps in a forward pass with numbers."""
    model = tiny_network(family)
    batch = tiny_batch(ROWS, TOKENS)
    # Without padding some models leave out the mask.
    batch["attention_mask"][0, -1] = 0
    plan = plan_freeze(model, unfreeze, batch)
    plan.apply(model)
    plan.set_train_mode(model)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, Any] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast),
    ):
        model(**batch).logits.float().sum()
    return sum(storage.nbytes() for storage in saved.values())


@pytest.mark.parametrize(
    ("family", "unfreeze", "autocast"),
    [
        *((family, "all", False) for family in sorted(set(STACKED) - UNFOLLOWED)),
        ("bert", 1, False),
        ("bert", "all", True),
        ("gpt2", 1, True),
    ],
)
def test_what_autograd_keeps_is_known_without_numbers(
    family: str, unfreeze: Any, autocast: bool, tmp_path: Path
) -> None:
    (trace,) = traces(spec_of(config_of(family, tmp_path), unfreeze=unfreeze), autocast)
    assert trace.activations == pytest.approx(really_saved(family, unfreeze, autocast), rel=0.02)
    assert trace.peak >= trace.activations
    assert trace.peak_with_gradients >= trace.peak


def test_what_trains_is_that_of_the_real_model(tmp_path: Path) -> None:
    model = tiny_network("bert")
    for unfreeze in (0, 1, BLOCKS, "all", ("classifier",)):
        given = list(unfreeze) if isinstance(unfreeze, tuple) else unfreeze
        (trace,) = traces(spec_of(config_of("bert", tmp_path), unfreeze=given))
        plan = plan_freeze(model, unfreeze, tiny_batch())
        assert trace.trainable == plan.trainable_parameters
        assert trace.parameters == plan.total_parameters
        assert trace.blocks == BLOCKS


def test_a_schedule_needs_what_its_largest_phase_needs(tmp_path: Path) -> None:
    spec = spec_of(config_of("bert", tmp_path), unfreeze="lp-ft", epochs=3)
    first, last = traces(spec)
    assert first.trainable < last.trainable == last.parameters
    layout = Layout.of(spec.train, ROWS, 2)
    both, alone = (worker_memory(t, layout, on_gpu=False) for t in ([first, last], [last]))
    assert both == alone


def test_recomputing_keeps_less(tmp_path: Path) -> None:
    folder = config_of("bert", tmp_path)
    (kept,), (again,) = (
        traces(spec_of(folder, gradient_checkpointing=answer)) for answer in (False, True)
    )
    assert again.activations < kept.activations / 4
    assert again.peak < kept.peak


def test_a_model_that_looks_at_values_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoEstimate, match="cannot be foreseen"):
        traces(spec_of(config_of("modernbert", tmp_path)))


# ---- the layout ----------------------------------------------------------------------------------

TRACE = MemoryTrace(12, 1_000_000, 400_000, 100_000, 7_000_000, 8_000_000, 9_000_000)
PART = 400_000 // 2


def layout(stage: int, workers: int = 2, **deepspeed: Any) -> Layout:
    spec = spec_of(Path("unused"), workers, deepspeed={"stage": stage, **deepspeed})
    return Layout.of(spec.train, ROWS, workers)


def test_state_is_whole_at_stage_0_and_shared_above() -> None:
    found = [worker_memory([TRACE], layout(stage), on_gpu=True).device for stage in range(4)]
    optimizer = [parts.optimizer for parts in found if parts]
    assert optimizer == [8 * 400_000, 12 * PART, 12 * PART, 8 * PART]
    weights = [parts.weights for parts in found if parts]
    gathered = FULL * 1_000_000
    assert weights == [gathered, gathered, gathered, gathered + gathered // 2]


def test_one_worker_shards_nothing_and_reduces_nothing() -> None:
    for stage in range(4):
        memory = worker_memory([TRACE], layout(stage, workers=1), on_gpu=False)
        assert memory.host.optimizer == 8 * 400_000
        assert memory.host.buffers == 0


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_an_offload_moves_the_optimizer_to_the_host(stage: int) -> None:
    here = worker_memory([TRACE], layout(stage), on_gpu=True)
    there = worker_memory([TRACE], layout(stage, offload="cpu"), on_gpu=True)
    assert here.device and there.device
    assert there.device.optimizer == here.host.optimizer == 0
    assert there.host.optimizer == 12 * PART
    assert there.device.total < here.device.total
    on_disk = {"offload": "nvme", "nvme_path": "/disk"}
    if stage == 3:
        swapped = worker_memory([TRACE], layout(3, **on_disk), on_gpu=True)
        assert swapped.host.optimizer == 0
        assert swapped.host.total < there.host.total


def test_only_the_first_worker_keeps_checkpoints() -> None:
    first, other = (
        worker_memory([TRACE], layout(2), on_gpu=False, keeps=keeps).host for keeps in (True, False)
    )
    assert first.checkpoint == 12 * 400_000
    assert other.checkpoint == 0


def test_the_parts_add_up_and_say_their_names() -> None:
    parts = worker_memory([TRACE], layout(1), on_gpu=False).host
    shown = parts.to_json()
    assert shown.pop("total") == sum(shown.values()) == parts.total
    assert shown["process"] == PROCESS


def test_the_reserve_leaves_out_weights_gradients_and_activations() -> None:
    assert reserve(1_000_000, 400_000, 100_000, layout(0, workers=1)) == 8 * 400_000
    with_bucket = reserve(1_000_000, 400_000, 100_000, layout(2))
    assert with_bucket == 12 * PART + FULL * (500_000_000 + 400_000)


# ---- what would fit ------------------------------------------------------------------------------


def planned(folder: Path, host: int, **train: Any) -> Any:
    return Planner(SCHEMA, Budget(host)).plan(spec_of(folder, **train))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return config_of("bert", tmp_path, hidden_size=64, intermediate_size=256)


def test_what_fits_needs_no_options(folder: Path) -> None:
    found = planned(folder, 10**12)
    assert found.fits
    assert found.options == ()
    (line,) = found.lines()
    assert "per worker at ZeRO stage 2 and micro batches of 4" in line


def test_another_stage_than_the_spec_names_is_said_with_its_reason(folder: Path) -> None:
    (line,) = Planner(SCHEMA, Budget(10**12)).plan(spec_of(folder, workers=1)).lines()
    assert "ZeRO stage 0 (not 2: one worker has none to share with)" in line


def test_each_option_fits_and_says_its_figure(folder: Path) -> None:
    need = planned(folder, 10**12, deepspeed={"stage": 0}).memory.host.total
    found = planned(folder, need - 1, deepspeed={"stage": 0})
    assert not found.fits
    changes = [tuple(option.changes) for option in found.options]
    assert ("train.micro_batch_size",) in changes
    assert ("train.gradient_checkpointing",) in changes
    assert ("train.unfreeze",) in changes
    for option in found.options:
        assert option.memory.host.total < need
        update = {key.removeprefix("train."): value for key, value in option.changes.items()}
        again = planned(folder, 10**12, **{"deepspeed": {"stage": 0}, **update})
        assert again.memory == option.memory
    text = "\n".join(found.lines())
    assert "train.micro_batch_size=2" in text


def test_where_nothing_fits_it_says_so(folder: Path) -> None:
    found = planned(folder, PROCESS // 2)
    assert not found.fits
    assert found.options == ()
    assert "nothing of micro_batch_size" in list(found.lines())[-1]
