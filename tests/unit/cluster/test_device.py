"""Which device a process computes on."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import ftray
from ftray.cluster import machine
from ftray.cluster.device import free_memory, limit_memory, own_device
from ftray.errors import ClusterError

ASKED_OF_TORCH = {"is_available", "device_count"}


@pytest.fixture
def sees(monkeypatch: pytest.MonkeyPatch) -> Any:
    """So many GPUs as torch is to see."""

    def see(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return see


@pytest.fixture
def ray_gave(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Ray, in a process that was given these GPUs and sees those."""

    def give(ids: list[str], visible: str | None = None, share: float = 1.0) -> None:
        context = SimpleNamespace(
            get_accelerator_ids=lambda: {"GPU": ids},
            get_assigned_resources=lambda: {"CPU": 1.0, "GPU": share},
        )
        fake = SimpleNamespace(is_initialized=lambda: True, get_runtime_context=lambda: context)
        monkeypatch.setitem(sys.modules, "ray", fake)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return give


@pytest.mark.parametrize(("count", "expected"), [(0, "cpu"), (1, "cuda:0"), (4, "cuda:0")])
def test_without_ray_it_is_the_first_gpu_that_torch_sees(
    sees: Any, monkeypatch: pytest.MonkeyPatch, count: int, expected: str
) -> None:
    sees(count)
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    assert str(own_device()) == expected
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False))
    assert str(own_device()) == expected


def test_a_process_of_ray_without_a_gpu_computes_on_the_cpu_whatever_it_sees(
    sees: Any, ray_gave: Any
) -> None:
    sees(4)
    ray_gave([])
    assert own_device() == torch.device("cpu")


@pytest.mark.parametrize(
    ("ids", "visible", "expected"),
    [
        (["2"], "2", 0),  # as Ray shows it to a task or an actor
        (["2"], "0,2,3", 1),  # as Ray Train shows it to a worker beside others
        (["10"], "10,2", 0),
        (["GPU-1f"], "GPU-07,GPU-1f", 1),
        (["1"], None, 1),  # with RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES
    ],
)
def test_a_process_of_ray_computes_on_the_gpu_that_it_was_given(
    sees: Any, ray_gave: Any, ids: list[str], visible: str | None, expected: int
) -> None:
    sees(4)
    ray_gave(ids, visible)
    assert own_device() == torch.device("cuda", expected)


def test_a_gpu_that_torch_cannot_use_is_told(sees: Any, ray_gave: Any) -> None:
    sees(0)
    ray_gave(["0"], "0")
    with pytest.raises(ClusterError, match="sees none on this node. Install torch with CUDA"):
        own_device()


@pytest.mark.parametrize(("share", "limits"), [(0.25, [0.25]), (1.0, [])])
def test_a_process_keeps_to_its_share_of_a_gpu(
    ray_gave: Any, monkeypatch: pytest.MonkeyPatch, share: float, limits: list[float]
) -> None:
    set_to: list[float] = []
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, device: set_to.append(share)
    )
    ray_gave(["0"], "0", share)
    limit_memory(torch.device("cuda", 0))
    limit_memory(torch.device("cpu"))
    assert set_to == limits


def test_nobody_else_asks_torch_for_gpus() -> None:
    """What torch sees is not what the process was given."""
    package = Path(ftray.__file__).parent
    asking = {
        str(file.relative_to(package))
        for file in package.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr in ASKED_OF_TORCH
        and isinstance(node.value, ast.Attribute)
        and node.value.attr == "cuda"
    }
    assert asking == {"cluster/device.py"}


def test_free_memory_of_the_cpu_is_the_machines() -> None:
    cpu, held, taken = torch.device("cpu"), [], []
    # The kernel may reuse pages freed just before, which it does not count as free yet.
    while len(held) < 4 and not any(0.5 < share < 1.5 for share in taken):
        free = free_memory(cpu)
        assert 0 < free <= machine.memory()
        held.append(torch.ones(1 << 28))
        taken.append((free - free_memory(cpu)) / held[-1].nbytes)
    assert 0.5 < taken[-1] < 1.5, taken


@pytest.mark.parametrize(("share", "free"), [(1.0, 50), (0.5, 30), (0.25, 10)])
def test_free_memory_of_a_shared_gpu_ends_with_the_share(
    monkeypatch: pytest.MonkeyPatch, ray_gave: Any, share: float, free: int
) -> None:
    """Of 80 bytes 50 are free, and this process has 10 of the others."""
    ray_gave(["0"], share=share)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (50, 80))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 10)
    assert free_memory(torch.device("cuda", 0)) == free
