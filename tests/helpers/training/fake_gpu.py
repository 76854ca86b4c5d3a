"""A simulated GPU: tensors have shapes and devices but no numbers.

Forward and backward passes run on these tensors. Mixing tensors of two devices raises.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorConverter, FakeTensorMode
from torch.utils import backend_registration


class _Backend(backend_registration._DummyBackendModule):  # noqa: SLF001
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


@cache
def fake_gpu() -> torch.device:
    """Registers a device type backed by Python.

    torch built without CUDA runs no backward pass on a fake `cuda` device, but does on a Python
    backend.
    """
    backend_registration._setup_privateuseone_for_python_backend(  # noqa: SLF001
        "gpu", backend_module=_Backend()
    )
    return torch.device("gpu", 0)


@contextmanager
def without_numbers_here() -> Iterator[None]:
    """Makes all tensors fake.

    Tensors on the CPU read as zeros; reading a tensor of the device raises.
    """

    def of_host(tensor: torch.Tensor) -> torch.Tensor:
        assert tensor.device.type == "cpu", "the host waits for the device"
        return tensor

    def numpy(tensor: torch.Tensor, **_: Any) -> np.ndarray:
        of_host(tensor)
        kinds: dict[Any, Any] = {torch.int64: np.int64, torch.float64: np.float64}
        return np.zeros(tensor.shape, kinds.get(tensor.dtype, np.float32))

    def item(tensor: torch.Tensor) -> float:
        of_host(tensor)
        return 0.0

    def nonzero(tensor: torch.Tensor, *, as_tuple: bool = False) -> Any:
        of_host(tensor)
        places = [torch.ones(tensor.numel(), dtype=torch.long) for _ in tensor.shape]
        return tuple(places) if as_tuple else torch.stack(places, 1)

    convert = FakeTensorConverter.from_real_tensor

    def without_constant(self: Any, *args: Any, **options: Any) -> Any:
        """Turns constants off: torch would move a constant to the device, which does not exist."""
        return convert(self, *args, **{**options, "make_constant": False})

    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        patch.object(FakeTensorConverter, "from_real_tensor", without_constant),
        patch.object(torch.Tensor, "numpy", numpy),
        patch.object(torch.Tensor, "item", item),
        patch.object(torch.Tensor, "nonzero", nonzero),
    ):
        yield


@contextmanager
def reading_once() -> Iterator[None]:
    """Lets the host copy from the device, which gives ones.

    Raises AssertionError unless the host copies exactly once.
    """
    copy, copies = torch.Tensor.cpu, []

    def cpu(tensor: torch.Tensor) -> torch.Tensor:
        copies.append(tensor.shape)
        return copy(tensor)

    with (
        patch.object(torch.Tensor, "cpu", cpu),
        patch.object(torch.Tensor, "numpy", lambda tensor: np.ones(tensor.shape)),
    ):
        yield
    assert len(copies) == 1, f"the host waits for the device {len(copies)} times: {copies}"
