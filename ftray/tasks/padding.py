"""Rows of token ids as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def padded(ids: Sequence[Sequence[int] | np.ndarray], pad_id: int) -> dict[str, torch.Tensor]:
    """input_ids and attention_mask, (B, T) int64, on the right padded to the longest row."""
    import torch

    longest = max(len(row) for row in ids)
    tokens = np.full((len(ids), longest), pad_id, dtype=np.int64)
    mask = np.zeros((len(ids), longest), dtype=np.int64)
    for index, row in enumerate(ids):
        tokens[index, : len(row)] = row
        mask[index, : len(row)] = 1
    return {"input_ids": torch.from_numpy(tokens), "attention_mask": torch.from_numpy(mask)}
