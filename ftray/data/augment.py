"""Rows of the training split as they are seen this once: some of their tokens left out."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np


def drop_tokens(
    ids: np.ndarray, probability: float, special: Collection[int], random: np.random.Generator
) -> np.ndarray:
    """A row without some of its tokens: the random deletion of EDA (Wei & Zou 2019).

    ids: (tokens,). The first token, the last one and those in `special` always stay; of the others
    each goes with that probability, but for one that stays in any case.
    """
    stays = np.isin(ids, list(special))
    stays[[0, -1]] = True
    free = np.flatnonzero(~stays)
    if not len(free):
        return ids
    stays[free] = random.random(len(free)) >= probability
    # Drawn in any case, so that the generator goes on from the same place.
    saved = random.choice(free)
    if not stays[free].any():
        stays[saved] = True
    return ids[stays]
