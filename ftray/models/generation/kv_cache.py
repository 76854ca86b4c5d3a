"""Keys and values of a batch whose rows come and go, with room for those of tokens to come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

LEAST_ROOM = 64
"""Columns that a cache has ahead."""


class RoomyCache(Cache):
    """Keys and values of answers that come, with `join`, and go, with `keep`. A token's are put
    behind the others, of which none is copied for that.

    A layer keeps all tokens even where the model looks at a window of them: its masks see to that.
    """

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=_RoomyLayer)

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values, without the room ahead of them."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self.layers)

    def join(self, other: Cache) -> None:
        """Rows of another batch come to be the last ones here; the shorter of the two batches is
        padded on the left."""
        while len(self.layers) < len(other.layers):
            self.layers.append(_RoomyLayer())
        for layer, its in zip(self.layers, other.layers, strict=True):
            layer.join(its.keys, its.values)

    def keep(self, rows: int, columns: int, sources: Sequence[int], places: Sequence[int]) -> None:
        """Rows at `sources` take the `places` of others; then so many first rows stay, and of each
        so many last columns."""
        for layer in self.layers:
            layer.keep(rows, columns, sources, places)


class _RoomyLayer(DynamicLayer):
    """Those of one block, (B, H, T, D) each."""

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
    """(B, H, T, D) somewhere in a larger tensor: first rows, and columns with room on both sides.

    What is padding holds finite numbers: times zero they are nothing, which NaN is not.
    """

    def __init__(self, like: torch.Tensor) -> None:
        """Empty; for states such as `like`, (_, H, _, D)."""
        dtype, device = like.dtype, like.device.type
        if torch.is_autocast_enabled(device):
            # Attention would round all of them to it, for each token anew.
            dtype = torch.get_autocast_dtype(device)
        self._whole = like.new_empty(0, like.shape[1], 0, like.shape[3], dtype=dtype)
        self._rows = self._start = self._end = 0

    @property
    def view(self) -> torch.Tensor:
        return self._whole[: self._rows, :, self._start : self._end]

    def append(self, states: torch.Tensor) -> None:
        """states: (B, H, t, D), the next columns of all rows, or the first ones."""
        rows, width = states.shape[0], states.shape[2]
        if self._end + width > self._whole.shape[2]:
            self._enlarge(rows, self._end - self._start, width)
        self._whole[:rows, :, self._end : self._end + width] = states
        self._rows, self._end = rows, self._end + width

    def join(self, states: torch.Tensor) -> None:
        """states: (b, H, t, D), the next rows; the last columns are in line."""
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
        """Room for so many rows, columns, and columns ahead of these, and for a quarter more."""
        old, (heads, size) = self.view, (self._whole.shape[1], self._whole.shape[3])
        width = columns + ahead + max(LEAST_ROOM, columns // 4)
        self._whole = old.new_empty(rows + rows // 4, heads, width, size)
        self._start, self._end = columns - old.shape[2], columns
        self._whole[: self._rows, :, self._start : self._end] = old
