"""What records of a classifier's forward pass have in common: they hold for every shape, or are not
used."""

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
"""torch keeps what it does meanwhile in variables of its modules."""


class Unfit(Exception):
    """A record that does not do what its model does."""


class Logits(nn.Module):
    """A model whose inputs come by place, and whose output is one tensor."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self._model, self._names = model, names
        self.eval()

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        inputs = dict(zip(self._names, values, strict=True))
        logits: torch.Tensor = self._model(**inputs).logits
        return logits


@contextmanager
def recording() -> Iterator[None]:
    """One record at a time, and no warnings that it may not hold for other inputs: that is
    checked."""
    with _recording, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def check(
    record: Callable[..., Any],
    model: nn.Module,
    examples: Sequence[Inputs],
    tolerance: float,
    failures: tuple[type[Exception], ...],
) -> None:
    """tolerance: largest difference of a logit, as a share of the largest where that is beyond 1;
    failures: what running the record may raise.

    Raises Unfit unless the record gives the model's logits for all of the examples.
    """
    for example in examples:
        where = " x ".join(map(str, next(iter(example.values())).shape))
        try:
            found = record(**example).logits
        except failures as error:
            raise Unfit(f"it fails where the input is {where}: {error}") from None
        with torch.inference_mode():
            wanted = model(**example).logits
        gap, largest = float((wanted - found).abs().max()), float(wanted.abs().max())
        if not gap <= tolerance * max(1.0, largest):
            raise Unfit(f"a logit is off by {gap:.2g} where the input is {where}")
