"""How a training process uses its machine: its share of the cores, memory that it keeps, and how
much it took."""

from __future__ import annotations

import ctypes
import platform
import sys

import torch

from ftray.cluster import machine
from ftray.cluster.device import own_device
from ftray.spec.schema import Spec

# glibc's mallopt(3): from which size memory is mapped, and from which it is given back.
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1


def import_deepspeed() -> None:
    """Import DeepSpeed without MLflow, which its autotuner would import where there is one: that
    takes as long as all the rest, and a process that trains logs nothing there."""
    hidden = "mlflow" not in sys.modules
    if hidden:
        sys.modules["mlflow"] = None  # type: ignore[assignment]
    try:
        import deepspeed  # noqa: F401
    finally:
        if hidden:
            del sys.modules["mlflow"]


def settle(spec: Spec) -> None:
    """Call once at the start of a process that trains."""
    import_deepspeed()
    # Ray tells OpenMP of the worker's share of the cores only before torch starts.
    torch.set_num_threads(max(1, int(spec.scale.cpus_per_worker)))
    if own_device().type == "cpu" and platform.libc_ver()[0] == "glibc":
        # Gradients come and go with each step. Mapped anew they cost a page fault a page, which on
        # a CPU took a third of the time of a step with all layers trained.
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def forget_peak_memory() -> None:
    """Begin anew to watch how much memory this process takes."""
    machine.forget_peak_memory()
    device = own_device()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory() -> int | None:
    """Bytes that this process held at most: of its GPU where it has one, else of the machine."""
    device = own_device()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return machine.peak_memory()
