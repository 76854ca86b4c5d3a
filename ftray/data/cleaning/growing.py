"""A numpy array that grows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


class Growing:
    """Collects the values of rows without an object for each. shape: of the value of one row."""

    def __init__(self, dtype: str, shape: tuple[int, ...] = ()) -> None:
        self._dtype, self._shape, self._bytes = dtype, shape, bytearray()

    def add(self, values: npt.ArrayLike) -> None:
        self._bytes += np.ascontiguousarray(values, self._dtype).data.cast("B")

    def array(self) -> np.ndarray:
        """Return all values, (rows, *shape), without a copy."""
        return np.frombuffer(self._bytes, self._dtype).reshape(-1, *self._shape)
