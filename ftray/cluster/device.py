"""The device that a process computes on: the one that Ray gave it, not one that it merely sees.

Ray hides no GPU from a process that asked for none, so what torch sees says nothing. Three cases:

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
"""In messages of errors that have no class of their own."""
_VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")


def own_device() -> torch.device:
    """The device of this process, with its number where it is a GPU.

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
    """Whether torch, or a library that it calls, found no room on the device or in the host."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return any(word in str(error) for word in _NO_MEMORY)


def visible_gpus() -> int:
    """How many GPUs torch sees from this process, whoever they are for."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def limit_memory(device: torch.device) -> None:
    """Keep this process within its share of a GPU that Ray gave to several processes."""
    import torch

    if device.type == "cuda" and 0 < (share := _share()) < 1:
        torch.cuda.set_per_process_memory_fraction(share, device)


def free_memory(device: torch.device) -> int:
    """Bytes that this process may still take on the device."""
    import torch

    if device.type != "cuda":
        return machine.free_memory()
    free, total = torch.cuda.mem_get_info(device)
    own = total * min(1.0, _share()) - torch.cuda.memory_reserved(device)
    return max(0, min(free, int(own)))


def _share() -> float:
    """The part of a GPU that Ray gave this process; 1 without Ray."""
    ray = _connected_ray()
    if ray is None:
        return 1.0
    return float(ray.get_runtime_context().get_assigned_resources().get("GPU", 1.0))


def _connected_ray() -> Any:
    """The module ray where this process belongs to a cluster. A process that has not imported ray
    does not."""
    ray: Any = sys.modules.get("ray")
    return ray if ray is not None and ray.is_initialized() else None


def _given_gpu(ray: Any) -> int | None:
    """The number, among those that torch sees, of the GPU that Ray gave this process."""
    given = sorted(ray.get_runtime_context().get_accelerator_ids().get("GPU", []))
    if not given:
        return None
    # Ray Train shows a worker the GPUs of all workers on its node.
    for name in _VISIBLE:
        visible = os.environ.get(name, "").split(",")
        if given[0] in visible:
            return visible.index(given[0])
    return int(given[0]) if given[0].isdigit() else 0
