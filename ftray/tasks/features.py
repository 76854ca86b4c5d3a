"""Examples and batches: how the features of a task are stored, padded and stacked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import torch

Role = Literal["input", "target", "host"]
Example = Mapping[str, Any]
"""One example: feature name -> array, list of numbers, or number."""


@dataclass(frozen=True)
class Feature:
    """A declared feature of examples.

    dtype: numpy dtype of an element. shape: of one example: () for a number; None: one axis whose
    length differs between examples. role: input of the model; target of the loss; host: read by
    metrics and answers only, and never moved to a device. counts: whether an input of differing
    length adds to the cost of its example.
    """

    dtype: str
    shape: tuple[int, ...] | None = ()
    role: Role = "input"
    counts: bool = True

    def to_json(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "shape": self.shape, "role": self.role, "counts": self.counts}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Feature:
        shape = None if told["shape"] is None else tuple(told["shape"])
        return cls(told["dtype"], shape, told["role"], told["counts"])


class Layout(NamedTuple):
    """Tells which examples share a row of a batch. rows: the row of each example; starts: the place
    in that row where the example begins."""

    rows: Sequence[int]
    starts: Sequence[int]

    @classmethod
    def first_fit(cls, lengths: Sequence[int], most: int) -> Layout:
        """Lay examples of these lengths, the longest first, each into the first row that has room
        for it: first-fit decreasing (Johnson 1973). most: tokens of a row, as many as the longest
        example has at least."""
        ends: list[int] = []
        rows, starts = [0] * len(lengths), [0] * len(lengths)
        for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
            row = next((r for r, end in enumerate(ends) if end + lengths[place] <= most), len(ends))
            ends += [0] * (row == len(ends))
            rows[place], starts[place] = row, ends[row]
            ends[row] += lengths[place]
        return cls(rows, starts)


class Batch(NamedTuple):
    """Examples as tensors. inputs: keyword arguments of the model; targets: the answers; host: the
    examples themselves, for their features that stay on the host. The first axis of every input is
    the number of examples, or that of the rows of `layout`."""

    inputs: dict[str, torch.Tensor]
    targets: dict[str, torch.Tensor]
    host: Sequence[Example] = ()
    layout: Layout | None = None

    def to(self, device: torch.device) -> Batch:
        """Return the batch on `device`. The host does not wait for the copy from pinned memory."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, move: Any) -> Batch:
        inputs, targets = ({n: move(t) for n, t in part.items()} for part in self[:2])
        return self._replace(inputs=inputs, targets=targets)


@dataclass(frozen=True)
class Examples:
    """Training examples of rows: one example a row, or several where a row is split into windows.

    features: feature name -> its value in each example; rows: index of the row of each example,
    rising; lengths: size of each row that has examples, before cutting (in tokens, for texts);
    rejected: index of a row without examples -> the kind of its fault.
    """

    features: dict[str, list[Any]]
    rows: list[int]
    lengths: list[int]
    rejected: dict[int, str]

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, row: int, example: Example) -> None:
        """Add an example of a row, with all features."""
        for name, value in example.items():
            self.features.setdefault(name, []).append(value)
        self.rows.append(row)

    def each(self) -> list[Example]:
        """Return the examples one by one."""
        names = list(self.features)
        values = zip(*self.features.values(), strict=True)
        return [dict(zip(names, of, strict=True)) for of in values]


def stacked(
    examples: Sequence[Example],
    features: Mapping[str, Feature],
    pads: Mapping[str, int],
    layout: Layout | None = None,
) -> Batch:
    """Make a batch of the features that all examples have. Pads features of differing lengths on
    the right to the longest of the batch, with the values in `pads` (0 for the others). layout: of
    these features, where several examples lie in a row."""
    parts: dict[Role, dict[str, torch.Tensor]] = {"input": {}, "target": {}}
    for name, feature in features.items():
        if feature.role == "host" or name not in examples[0]:
            continue
        values = [example[name] for example in examples]
        parts[feature.role][name] = _tensor(values, feature, pads.get(name, 0), layout)
    return Batch(parts["input"], parts["target"], examples, layout)


def in_rows(
    values: Sequence[Any], dtype: Any, pad: int = 0, layout: Layout | None = None
) -> np.ndarray:
    """Return arrays that differ in the length of the first axis in the rows of one array,
    (rows, T, ...), padded on the right. Without a layout each has a row of its own."""
    if layout is None and len({len(value) for value in values}) == 1:
        return np.array(values, dtype)
    rows, starts = layout or (range(len(values)), [0] * len(values))
    ends = [start + len(value) for start, value in zip(starts, values, strict=True)]
    found = np.full((max(rows) + 1, max(ends), *np.shape(values[0])[1:]), pad, dtype)
    for row, start, end, value in zip(rows, starts, ends, values, strict=True):
        found[row, start:end] = value
    return found


def _tensor(
    values: Sequence[Any], feature: Feature, pad: int, layout: Layout | None
) -> torch.Tensor:
    import torch

    # torch takes indices as int64, whatever the width in which the cache stores them.
    whole = "int64" if feature.dtype.startswith("int") else feature.dtype
    if feature.shape is not None:
        rows = np.stack([np.asarray(v, whole).reshape(feature.shape) for v in values])
        return torch.from_numpy(rows)
    return torch.from_numpy(in_rows(values, whole, pad, layout))


def cost(example: Example, features: Mapping[str, Feature]) -> int:
    """Return the cost of an example, by which examples are batched: elements of all inputs of
    differing length; 1 where no input differs in length."""
    lengths = [
        len(value)
        for name, value in example.items()
        if (feature := features[name]).role == "input" and feature.shape is None and feature.counts
    ]
    return sum(lengths) if lengths else 1


def input_digest(example: Example, features: Mapping[str, Feature]) -> bytes:
    """Return a 16-byte digest of the inputs of an example: equal for examples of which a model in
    eval mode makes the same outputs."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(name for name in example if features[name].role == "input"):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(example[name], features[name].dtype).data)
    return digest.digest()


def mask_of(lengths: Iterable[int]) -> torch.Tensor:
    """Return (B, T) int64: 1 where a row of these lengths has an element, 0 in its padding."""
    import torch

    sizes = list(lengths)
    longest = max(sizes)
    if longest == min(sizes):
        return torch.ones(len(sizes), longest, dtype=torch.int64)
    shown = np.arange(longest) < np.array(sizes)[:, None]
    return torch.from_numpy(shown.astype(np.int64))
