"""Estimates for GPUs that are not here, beside published figures."""

from __future__ import annotations

from typing import Any

import pytest

from ftray.errors import SpecError
from ftray.spec.load import parse
from ftray.spec.schema import Spec
from ftray.spec.sections.training import TrainSpec
from ftray.train.memory.estimate import Layout, worker_memory
from ftray.train.memory.hardware import USED, Gpus, duration, peak_by_name
from ftray.train.memory.simulate import MemoryTrace

GB = 1e9


def spec(**train: Any) -> Spec:
    tree = {"name": "large", "model": {"name_or_path": "x/y"}, "data": {"train": "x"}}
    return parse({**tree, "train": train, "scale": {"price_per_worker_hour": 3.0}})


def trace(parameters: float, flop: float = 6) -> MemoryTrace:
    """flop: for a token, by weight."""
    whole = int(parameters)
    return MemoryTrace(32, whole, whole, whole // 60, 0, 0, 0, flop_per_token=int(flop * whole))


def test_gpus_are_read() -> None:
    assert str(Gpus.of("8xH100")) == "8 x H100"
    assert (Gpus.of("l4").count, Gpus.of("l4").name) == (1, "L4")
    assert Gpus.of("2 x a100-40").memory < 43 * GB


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("8xH10", "Did you mean H100?"),
        ("0xH100", "COUNTxNAME"),
        ("H100x8", "Did you mean H100?"),
        ("", "COUNTxNAME"),
    ],
)
def test_other_gpus_are_refused(text: str, told: str) -> None:
    with pytest.raises(SpecError, match="no such GPUs") as caught:
        Gpus.of(text)
    assert told in str(caught.value)


def test_hours_and_cost_follow_from_the_flop_of_a_token() -> None:
    gpus = Gpus.of("4xH100")
    full = duration(spec(), trace(8e9), 1_000_000, gpus)
    assert full.tokens_per_s == pytest.approx(USED * 4 * 989e12 / (6 * 8e9))
    assert full.hours == pytest.approx(1_000_000 / full.tokens_per_s / 3600)
    assert full.cost == pytest.approx(3.0 * 4 * full.hours)
    assert duration(spec(), trace(8e9, flop=4), 1, gpus).tokens_per_s == pytest.approx(
        1.5 * full.tokens_per_s
    )


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("AMD Instinct MI300X", 1307),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA H100X", None),
        ("Tesla T4", None),
        ("", None),
    ],
)
def test_a_gpu_is_known_by_the_name_of_its_driver(name: str, tera: int | None) -> None:
    assert peak_by_name(name) == tera


@pytest.mark.parametrize(
    ("parameters", "gpus", "low", "high"),
    [
        # One H100, Llama 3 8B with adapters: 12,473 tokens/s (NeMo AutoModel).
        (8.0e9, "H100", 10_000, 15_000),
        # The same with Qwen 2.5 7B: 14,110 tokens/s.
        (7.6e9, "H100", 11_500, 17_000),
    ],
)
def test_published_speeds_are_met_within_a_fifth(
    parameters: float, gpus: str, low: float, high: float
) -> None:
    found = duration(spec(), trace(parameters, flop=4), 1, Gpus.of(gpus))
    assert low < found.tokens_per_s < high


@pytest.mark.parametrize(("stage", "low", "published"), [(0, 4, 120), (1, 2, 31.4), (2, 2, 16.6)])
def test_the_state_of_a_model_is_what_the_zero_paper_says(
    stage: int, low: int, published: float
) -> None:
    """Rajbhandari et al. 2020, figure 1: 7.5 B parameters on 64 GPUs, 16 bytes a parameter."""
    layout = Layout(stage, 64, 1, low, "none", "none", bucket=1, live=1)
    memory = worker_memory([trace(7.5e9)], layout, on_gpu=True, keeps=False).device
    assert memory is not None
    found = memory.weights + memory.gradients + memory.optimizer
    assert found / GB == pytest.approx(published, rel=0.2)


def test_a_large_model_needs_sharding() -> None:
    def of(train: dict[str, Any], workers: int) -> float:
        layout = Layout.of(TrainSpec.model_validate(train), 1, workers)
        found = worker_memory([trace(8e9)], layout, on_gpu=True).device
        assert found is not None
        return found.total

    gpu = Gpus.of("H100").memory
    assert of({"deepspeed": {"stage": 0}}, 1) > gpu
    assert of({"deepspeed": {"stage": 3}}, 8) < gpu < of({"deepspeed": {"stage": 3}}, 1)
