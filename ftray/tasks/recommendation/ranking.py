"""Metrics of ranked items, which add up over batches and ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

NO_RANK = -math.inf
"""Logit of what is no answer."""
_AT = 10
_MEANS = ("loss", "recall_at_1", "recall_at_10", "ndcg_at_10", "mrr")


def ranks(
    logits: torch.Tensor,
    truth: torch.Tensor,
    hidden: Sequence[int],
    history: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Return the rank of the right token, 1 or more, among all that are not hidden, (N,) float32;
    infinity where it is hidden itself. Of tokens with equal logits, the right one comes last.

    logits: (N, V); truth: ids (N,); hidden: tokens that are no answer; history: ids (N, T) of what
    is no answer either, up to the places (N,).
    """
    import torch

    logits = logits.clone()
    if history is not None:
        ids, places = history
        behind = torch.arange(ids.shape[1], device=ids.device) > places[:, None]
        logits.scatter_(1, ids.masked_fill(behind, hidden[0]), NO_RANK)
    logits[:, list(hidden)] = NO_RANK
    own = logits.gather(1, truth[:, None])
    found = (logits >= own).sum(1).float()
    return found.masked_fill(own[:, 0] == NO_RANK, math.inf)


def sums_of(losses: torch.Tensor, ranks: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the sums that `scores_of` divides. losses, ranks: (N,)."""
    each = {
        "items": ranks > 0,
        "loss": losses,
        "recall_at_1": ranks <= 1,
        "recall_at_10": ranks <= _AT,
        "ndcg_at_10": (1 / (1 + ranks).log2()).masked_fill(ranks > _AT, 0),
        "mrr": 1 / ranks,
    }
    return {name: values.double().sum() for name, values in each.items()}


def scores_of(sums: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the means over all items to learn, and their number."""
    items = int(sums["items"])
    assert items > 0, "metrics of no rows"
    return {**{name: float(sums[name]) / items for name in _MEANS}, "items": items}
