"""Pads rows of token ids to one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def padded(ids: Sequence[Sequence[int] | np.ndarray], pad_id: int) -> dict[str, torch.Tensor]:
    """Return input_ids and attention_mask, (B, T) int64, padded on the right to the longest row."""
    import torch

    lengths = np.array([len(row) for row in ids])
    mask = np.arange(lengths.max()) < lengths[:, None]
    tokens = np.full(mask.shape, pad_id, dtype=np.int64)
    for target, row in zip(tokens, ids, strict=True):
        target[: len(row)] = row
    mask = mask.astype(np.int64)
    return {"input_ids": torch.from_numpy(tokens), "attention_mask": torch.from_numpy(mask)}
