"""Process-wide settings of a training process (threads, malloc), and its peak memory."""

from __future__ import annotations

import ctypes
import platform
import sys

import torch

from ftray.cluster import machine
from ftray.cluster.device import own_device
from ftray.spec.schema import Spec
from ftray.train.engine.deepspeed_config import shards_weights

# Options of glibc's mallopt(3): the size above which malloc uses mmap, and the free memory at the
# top of the heap above which glibc returns memory to the kernel.
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1


def import_deepspeed() -> None:
    """Import DeepSpeed without MLflow. DeepSpeed's autotuner imports MLflow where it is installed,
    which doubles the import time, and a training process does not log to MLflow."""
    hidden = "mlflow" not in sys.modules
    if hidden:
        sys.modules["mlflow"] = None  # type: ignore[assignment]
    try:
        import deepspeed  # noqa: F401
    finally:
        if hidden:
            del sys.modules["mlflow"]


def settle(spec: Spec) -> None:
    """Configure this process for training: its thread count, and malloc on a CPU. Call this
    function once at the start of the process."""
    import_deepspeed()
    # Ray passes the worker's share of the cores to OpenMP, but only before torch starts.
    torch.set_num_threads(max(1, int(spec.scale.cpus_per_worker)))
    if own_device().type != "cpu" or platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    if shards_weights(spec.train, spec.scale.most_workers):
        # Memory comes first. Without this, glibc raises the threshold to the size of what is freed,
        # and tensors lie in a heap that never shrinks.
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 20)
        return
    # Each step allocates and frees all gradients. If malloc maps them anew, each page costs a page
    # fault, which on a CPU took a third of the time of a step with all layers trained.
    libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def forget_peak_memory() -> None:
    """Reset the counters of peak memory of this process, on the host and on its GPU."""
    machine.forget_peak_memory()
    device = own_device()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory() -> int | None:
    """Return the peak memory of this process in bytes: on its GPU if it has one, else on the
    host."""
    device = own_device()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return machine.peak_memory()
