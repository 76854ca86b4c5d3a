"""Computes the forward pass of a classifier with torch's own graph, on the CPU: the same operators
in the same order without the Python between them, on which small batches spend a third of their
time. Most encoders also compute without padding.

`torch.jit.trace` records the graph, as in the ONNX exporter. torch recommends `torch.export`
instead, which takes more than ten times as long for every replica.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from ftray.models.backends.graph import Inputs, Positional, Unfit, check, recording
from ftray.models.backends.packed_linear import packed_linears
from ftray.models.backends.unpadded import LAYOUT, Unpadded, lay_out

_TOLERANCES = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""Largest difference of a logit, by the dtype of matrix multiplications: a few last digits. In fp32
the logits are mostly equal; in lower precision, some model families' constants are rounded earlier
in the graph."""


class TracedModel:
    """Stands in for the model that it was made from: takes the same keyword inputs and returns the
    named outputs alone, in the autocast precision at the time of tracing."""

    def __init__(
        self,
        model: nn.Module,
        examples: Sequence[Inputs],
        outputs: Sequence[str] = ("logits",),
        packs: bool = False,
    ) -> None:
        """examples: inputs of several shapes; some rows of the first are padded. packs: whether the
        graph computes the model's blocks without padding. Autocast, if on, must have its cache
        disabled. Raises Unfit when torch cannot trace the model, or the graph gives other logits
        for some example."""
        self._names, self._outputs = tuple(examples[0]), tuple(outputs)
        self.config: Any = getattr(model, "config", None)
        try:
            unpadded = Unpadded(model) if packs else None
            self._width = None if unpadded is None else unpadded.width
            names = (*self._names, *LAYOUT) if packs else self._names
            with recording(), torch.inference_mode(), packed_linears(model):
                positional = Positional(unpadded or model, names, outputs)
                traced = torch.jit.trace(positional, self._values(examples[0]), check_trace=False)
                self._graph = torch.jit.freeze(traced)
        except Unfit:
            raise
        except Exception as error:
            # Tracing runs the model's own Python, which may raise any exception.
            raise Unfit(f"torch cannot trace it: {type(error).__name__}: {error}") from error
        is_rounded = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if is_rounded else torch.float32
        check(self, model, examples, outputs, _TOLERANCES[dtype], (RuntimeError,))

    def __call__(self, **inputs: torch.Tensor) -> Any:
        """Return the outputs, in the dtype of the model's."""
        values = self._values(inputs)
        # The graph already contains autocast's casts. Optimizing it would slow down its first
        # passes and gains nothing.
        with (
            torch.inference_mode(),
            torch.autocast("cpu", enabled=False),
            torch.jit.optimized_execution(False),
        ):
            found = self._graph(*values)
        return SimpleNamespace(**dict(zip(self._outputs, found, strict=True)))

    def _values(self, inputs: Inputs) -> tuple[torch.Tensor, ...]:
        """Return the arguments of the graph."""
        own = tuple(inputs[name] for name in self._names)
        if self._width is None:
            return own
        return (*own, *lay_out(inputs["attention_mask"], self._width))
