"""The backend and precision in which a trained model computes its answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BackendName = Literal["torch", "onnx"]
Precision = Literal["fp32", "bf16", "fp16", "int8"]

PRECISIONS: dict[BackendName, tuple[Precision, ...]] = {
    "torch": ("fp32", "bf16", "fp16"),
    "onnx": ("fp32", "int8"),
}


@dataclass(frozen=True)
class Compute:
    """A backend and one of the backend's precisions."""

    backend: BackendName = "torch"
    precision: Precision = "fp32"

    @property
    def on_cpu(self) -> bool:
        """Whether the backend computes on CPUs only, so that a GPU is of no use."""
        return self.backend == "onnx"


PLAIN = Compute()
"""The backend and precision in which training measures the model."""
