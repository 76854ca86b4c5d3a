"""Metric states: what the metrics of a split are computed from, batch by batch and rank by rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch

ROW = "row"
"""Key in `Gathered.each` of the number of the row that an example was made of."""


class MetricState(NamedTuple):
    """The part that one batch adds to the metrics of a split.

    sums: tensors that add up over batches and ranks, as counts do; each: tensors with one entry an
    example, which concatenate, as ranks and medians need; parts: arrays of any length, one an
    example, as sequences of tags need. The host does not wait
    for the device unless there are `parts`."""

    sums: Mapping[str, torch.Tensor]
    each: Mapping[str, torch.Tensor] = {}
    parts: Mapping[str, Sequence[np.ndarray]] = {}


class Gathered(NamedTuple):
    """The metric states of all examples of a split. sums: float64; each: one entry an example, in
    the order of the split, and under `ROW` the number of the example's row; parts: one array an
    example, in the same order."""

    sums: Mapping[str, np.ndarray]
    each: Mapping[str, np.ndarray]
    parts: Mapping[str, Sequence[np.ndarray]] = {}


class Group(Protocol):
    """The ranks that evaluate together: this one, and how many there are."""

    @property
    def rank(self) -> int: ...

    @property
    def world(self) -> int: ...

    def sum(self, values: np.ndarray) -> np.ndarray: ...

    def gather(self, value: Any) -> list[Any]: ...


class _Alone:
    """A group of one rank."""

    rank, world = 0, 1

    def sum(self, values: np.ndarray) -> np.ndarray:
        return values

    def gather(self, value: Any) -> list[Any]:
        return [value]


ALONE: Group = _Alone()


class Totals:
    """Adds up and concatenates the metric states of the batches of one rank."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._places: list[np.ndarray] = []
        self._each: dict[str, list[torch.Tensor]] = {}
        self._parts: dict[str, list[np.ndarray]] = {}

    def add(self, places: np.ndarray, state: MetricState) -> None:
        """Add the state of a batch. places: (B,) indices of its examples in the split."""
        for name, value in state.sums.items():
            value = value.double()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        if state.each or state.parts:
            self._places.append(places)
        for name, value in state.each.items():
            self._each.setdefault(name, []).append(value.detach())
        for name, arrays in state.parts.items():
            self._parts.setdefault(name, []).extend(arrays)

    def gathered(self, empty: MetricState, rows: np.ndarray, ranks: Group) -> Gathered:
        """Return the states of all ranks; every rank must call this method. empty: the state of no
        examples; rows: (examples,) number of the row of each example of the split."""
        sums = _summed({**empty.sums, **self._sums}, ranks)
        each = {name: _joined(self._each.get(name, [none])) for name, none in empty.each.items()}
        parts = {name: self._parts.get(name, []) for name in empty.parts}
        places = np.concatenate([*self._places, np.empty(0, np.int64)])
        if not each and not parts:
            return Gathered(sums, {})
        all_places, all_each, all_parts = zip(*ranks.gather((places, each, parts)), strict=True)
        places = np.concatenate(all_places)
        each = {name: np.concatenate([of[name] for of in all_each]) for name in each}
        parts = {name: [one for of in all_parts for one in of[name]] for name in parts}
        order = np.argsort(places, kind="stable")
        each = {name: values[order] for name, values in each.items()}
        each[ROW] = rows[places[order]]
        return Gathered(sums, each, {n: [arrays[i] for i in order] for n, arrays in parts.items()})


def _joined(parts: Sequence[torch.Tensor]) -> np.ndarray:
    import torch

    joined: np.ndarray = torch.cat(list(parts)).cpu().numpy()
    return joined


def _summed(sums: Mapping[str, torch.Tensor], ranks: Group) -> dict[str, np.ndarray]:
    """Sum each tensor over all ranks: one copy to the host, and one all-reduce."""
    import torch

    if not sums:
        return {}
    flat = torch.cat([value.double().ravel() for value in sums.values()]).cpu().numpy()
    total = ranks.sum(flat)
    parts = np.split(total, np.cumsum([value.numel() for value in sums.values()])[:-1])
    return {
        name: part.reshape(value.shape)
        for (name, value), part in zip(sums.items(), parts, strict=True)
    }
