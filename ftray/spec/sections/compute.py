"""By what a trained model computes its answers."""

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
    """Of a precision that the backend has."""

    backend: BackendName = "torch"
    precision: Precision = "fp32"

    @property
    def on_cpu(self) -> bool:
        """Whether a GPU is of no use to it."""
        return self.backend == "onnx"


PLAIN = Compute()
"""As training measures it."""
