"""Common parts of recording a classifier's forward pass as a graph (ONNX or torch): a recorded
graph is used only if it gives the model's logits for inputs of every shape that is tried."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

Inputs = Mapping[str, torch.Tensor]

_recording = threading.Lock()
"""Admits one recording at a time: torch keeps the state of a recording in global variables."""


class Unfit(Exception):
    """A recorded graph that does not give its model's logits."""


class Positional(nn.Module):
    """Wraps a model so that it takes positional inputs and returns a tuple of the named outputs."""

    def __init__(self, model: nn.Module, names: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__()
        self._model, self._names, self._outputs = model, names, outputs
        self.eval()

    def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self._model(**dict(zip(self._names, values, strict=True)))
        return tuple(getattr(found, name) for name in self._outputs)


@contextmanager
def recording() -> Iterator[None]:
    """Admit one recording at a time, and silence torch's warnings that the graph may not hold for
    other inputs: `check` tests that."""
    with _recording, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def check(
    record: Callable[..., Any],
    model: nn.Module,
    examples: Sequence[Inputs],
    outputs: Sequence[str],
    tolerance: float,
    failures: tuple[type[Exception], ...],
) -> None:
    """Compare the logits of the recorded graph with those of the model. Raises Unfit unless they
    agree for all of the examples.

    tolerance: largest difference of a logit, relative to the largest logit where it exceeds 1;
    failures: exceptions that running the graph may raise.
    """
    for example in examples:
        where = " x ".join(map(str, next(iter(example.values())).shape))
        try:
            answer = record(**example)
        except failures as error:
            raise Unfit(f"it fails where the input is {where}: {error}") from None
        with torch.inference_mode():
            whole = model(**example)
        for name in outputs:
            wanted, found = (_of_tokens(getattr(o, name), example) for o in (whole, answer))
            gap, largest = float((wanted - found).abs().max()), float(wanted.abs().max())
            if not gap <= tolerance * max(1.0, largest):
                raise Unfit(f"{name} is off by {gap:.2g} where the input is {where}")


def _of_tokens(output: torch.Tensor, inputs: Inputs) -> torch.Tensor:
    """Return an output with zeros where it is of padding, (B, L, ...), which no task reads."""
    mask = inputs.get("attention_mask")
    if mask is None or output.shape[:2] != mask.shape:
        return output
    return output.masked_fill(~mask.bool().view(*mask.shape, *[1] * (output.dim() - 2)), 0.0)
