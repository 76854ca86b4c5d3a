"""The forward pass of a classifier as torch's own graph, on the CPU: the same operators in the same
order with no Python between them, where small batches spend a third of their time.

By `torch.jit.trace`, as the ONNX exporter does it; `torch.export`, which torch would rather see,
takes more than ten times as long for every replica.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from ftray.models.backends.graph import Inputs, Logits, Unfit, check, recording

_TOLERANCES = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""Of a logit, by the type that matrices are multiplied in: a few of its last digits. In fp32 they
are mostly the same; rounded some families' constants are rounded earlier."""


class TracedModel:
    """Called as the model that it was made from, for its logits alone, in the precision that
    autocast was at when it was made."""

    def __init__(self, model: nn.Module, examples: Sequence[Inputs]) -> None:
        """examples: inputs of several shapes; some rows of the first are padded. Autocast, if it is
        on, keeps no cache. Raises Unfit when the model does other things for other inputs."""
        self._names = tuple(examples[0])
        values = tuple(examples[0].values())
        try:
            with recording(), torch.inference_mode():
                traced = torch.jit.trace(Logits(model, self._names), values, check_trace=False)
                self._graph = torch.jit.freeze(traced)
        except Exception as error:
            # The model's own Python runs here, and may raise anything when it is traced.
            raise Unfit(f"torch cannot trace it: {type(error).__name__}: {error}") from error
        is_rounded = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if is_rounded else torch.float32
        check(self, model, examples, _TOLERANCES[dtype], (RuntimeError,))

    def __call__(self, **inputs: torch.Tensor) -> Any:
        """logits: (B, C), in the type of the model's."""
        values = [inputs[name] for name in self._names]
        # The graph has the casts of autocast in it. Optimizing it would make its first passes slow
        # and gains nothing.
        with (
            torch.inference_mode(),
            torch.autocast("cpu", enabled=False),
            torch.jit.optimized_execution(False),
        ):
            return SimpleNamespace(logits=self._graph(*values))
