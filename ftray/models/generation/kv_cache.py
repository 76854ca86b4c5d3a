"""The KV cache of a batch whose rows join and leave, with free space for future tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

LEAST_ROOM = 64
"""Free columns that a cache allocates for future tokens, at least."""


class RoomyCache(Cache):
    """Holds the keys and values of answers that join (`join`) and leave (`keep`). A new token's
    keys and values go into free columns behind the others, which are copied only when no free
    column is left.

    A layer keeps all tokens even where the model attends to a sliding window of them: the model's
    masks limit attention to the window.
    """

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=_RoomyLayer)

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values, without free columns."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self.layers)

    def join(self, other: Cache) -> None:
        """Append the rows of another batch; pad the shorter of the two batches on the left."""
        while len(self.layers) < len(other.layers):
            self.layers.append(_RoomyLayer())
        for layer, its in zip(self.layers, other.layers, strict=True):
            layer.join(its.keys, its.values)

    def keep(self, rows: int, columns: int, sources: Sequence[int], places: Sequence[int]) -> None:
        """Copy the rows at `sources` over those at `places`; then keep only the first `rows` rows
        and the last `columns` columns."""
        for layer in self.layers:
            layer.keep(rows, columns, sources, places)


class _RoomyLayer(DynamicLayer):
    """Holds the keys and values of one block, (B, H, T, D) each."""

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self._windows = _Window(key_states), _Window(value_states)

    def join(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        for window, states in zip(self._windows, (keys, values), strict=True):
            window.join(states)
        self._look()

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        for window, states in zip(self._windows, (key_states, value_states), strict=True):
            window.append(states)
        self._look()
        return self.keys, self.values

    def keep(self, rows: int, columns: int, sources: Sequence[int], places: Sequence[int]) -> None:
        for window in self._windows:
            window.keep(rows, columns, sources, places)
        self._look()

    def _look(self) -> None:
        self.keys, self.values = (window.view for window in self._windows)


class _Window:
    """A view, (B, H, T, D), of a larger tensor: its first rows, and columns with free space on both
    sides.

    Padding holds finite numbers, so that an attention weight of zero cancels them; NaN times zero
    would be NaN.
    """

    def __init__(self, like: torch.Tensor) -> None:
        """Make an empty window for states shaped as `like`, (_, H, _, D)."""
        dtype, device = like.dtype, like.device.type
        if torch.is_autocast_enabled(device):
            # Store the autocast dtype: attention would otherwise round all states to it again for
            # each token.
            dtype = torch.get_autocast_dtype(device)
        self._whole = like.new_empty(0, like.shape[1], 0, like.shape[3], dtype=dtype)
        self._rows = self._start = self._end = 0

    @property
    def view(self) -> torch.Tensor:
        return self._whole[: self._rows, :, self._start : self._end]

    def append(self, states: torch.Tensor) -> None:
        """Append columns to all rows, or set the first ones. states: (B, H, t, D)."""
        rows, width = states.shape[0], states.shape[2]
        if self._end + width > self._whole.shape[2]:
            self._enlarge(rows, self._end - self._start, width)
        self._whole[:rows, :, self._end : self._end + width] = states
        self._rows, self._end = rows, self._end + width

    def join(self, states: torch.Tensor) -> None:
        """Append rows, aligned at the last column. states: (b, H, t, D)."""
        rows, width = self._rows + states.shape[0], states.shape[2]
        columns = max(width, self._end - self._start)
        if rows > self._whole.shape[0] or columns > self._end:
            self._enlarge(rows, columns, 0)
        start, new = self._end - columns, self._whole[self._rows : rows]
        self._whole[: self._rows, :, start : self._start] = 0
        new[:, :, start : self._end - width] = 0
        new[:, :, self._end - width : self._end] = states
        self._rows, self._start = rows, start

    def keep(self, rows: int, columns: int, sources: Sequence[int], places: Sequence[int]) -> None:
        """See `RoomyCache.keep`."""
        for source, place in zip(sources, places, strict=True):
            self._whole[place, :, self._start : self._end] = self.view[source]
        self._rows, self._start = rows, self._end - columns

    def _enlarge(self, rows: int, columns: int, ahead: int) -> None:
        """Move the view to a larger tensor, for `rows` rows, `columns` columns and `ahead` columns
        after them; add a quarter to the rows and to the columns (at least `LEAST_ROOM`)."""
        old, (heads, size) = self.view, (self._whole.shape[1], self._whole.shape[3])
        width = columns + ahead + max(LEAST_ROOM, columns // 4)
        self._whole = old.new_empty(rows + rows // 4, heads, width, size)
        self._start, self._end = columns - old.shape[2], columns
        self._whole[: self._rows, :, self._start : self._end] = old
