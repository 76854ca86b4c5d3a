"""The device that a process computes on: the device that Ray gave the process.

Ray hides no GPU from a process that asked for none, so the GPUs that torch sees do not tell the
device. Three cases:

a process that Ray started    the GPU among its resources, else the CPU
the driver, connected to Ray  the CPU: the GPUs are for the processes that Ray starts
a process without Ray         the first GPU that torch sees (CUDA_VISIBLE_DEVICES chooses), else the
                              CPU
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from ftray.cluster import machine
from ftray.errors import ClusterError

if TYPE_CHECKING:
    import torch

_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "STATUS_ALLOC_FAILED")
"""Parts of the messages of out-of-memory errors that have no class of their own."""
_VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")


def own_device() -> torch.device:
    """Return the device of this process, with its number where it is a GPU.

    Raises ClusterError where Ray gave a GPU that torch cannot use.
    """
    import torch

    cpu = torch.device("cpu")
    ray = _connected_ray()
    if ray is None:
        return torch.device("cuda", 0) if visible_gpus() else cpu
    number = _given_gpu(ray)
    if number is None:
        return cpu
    if number >= visible_gpus():
        raise ClusterError.of(
            "GPU",
            number,
            f"Ray gave it to this process, and torch {torch.__version__} sees "
            f"{visible_gpus() or 'none'} on this node",
            "install torch with CUDA on every node, or ask for no GPU (scale.gpus_per_worker, "
            "serve.gpus_per_replica: 0)",
        )
    return torch.device("cuda", number)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether torch, or a library that it calls, ran out of memory on the device or host."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return any(word in str(error) for word in _NO_MEMORY)


def visible_gpus() -> int:
    """Count the GPUs that torch sees from this process, even those that Ray gave to others."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def has_bf16(device: torch.device) -> bool:
    """Return whether the hardware of a device computes in bf16. GPUs on other machines count as if
    it did: all have since 2020."""
    import torch

    if device.type == "cuda":
        return not visible_gpus() or torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def limit_memory(device: torch.device) -> None:
    """Keep this process within its share of a GPU that Ray gave to several processes."""
    import torch

    if device.type == "cuda" and 0 < (share := gpu_share()) < 1:
        torch.cuda.set_per_process_memory_fraction(share, device)


def free_memory(device: torch.device) -> int:
    """Return the bytes that this process may still allocate on the device."""
    import torch

    if device.type != "cuda":
        return machine.free_memory()
    free, total = torch.cuda.mem_get_info(device)
    own = total * gpu_share() - torch.cuda.memory_reserved(device)
    return max(0, min(free, int(own)))


def gpu_name(device: torch.device) -> str:
    """Return the name that the driver gives a GPU."""
    import torch

    return torch.cuda.get_device_name(device)


def gpu_share() -> float:
    """Return the share of a GPU that Ray gave this process, at most 1; 1 without Ray."""
    ray = _connected_ray()
    if ray is None:
        return 1.0
    return min(1.0, float(ray.get_runtime_context().get_assigned_resources().get("GPU", 1.0)))


def _connected_ray() -> Any:
    """Return the module ray where this process is connected to a cluster, else None. A process that
    has not imported ray is not connected."""
    ray: Any = sys.modules.get("ray")
    return ray if ray is not None and ray.is_initialized() else None


def _given_gpu(ray: Any) -> int | None:
    """Return the number that torch uses for the GPU that Ray gave this process; None without
    one."""
    given = sorted(ray.get_runtime_context().get_accelerator_ids().get("GPU", []))
    if not given:
        return None
    # Ray Train makes the GPUs of all workers of a node visible to each worker there.
    for name in _VISIBLE:
        visible = os.environ.get(name, "").split(",")
        if given[0] in visible:
            return visible.index(given[0])
    return int(given[0]) if given[0].isdigit() else 0
