"""Augments training rows by token dropout: leaves out random tokens, anew each time."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np


def drop_tokens(
    ids: np.ndarray, probability: float, special: Collection[int], random: np.random.Generator
) -> np.ndarray:
    """Return a row without some of its tokens: the random deletion of EDA (Wei & Zou 2019).

    ids: (tokens,). The first token, the last token and tokens in `special` always stay. Each other
    token is dropped with that probability, but at least one of them stays.
    """
    stays = np.isin(ids, list(special))
    stays[[0, -1]] = True
    free = np.flatnonzero(~stays)
    if not len(free):
        return ids
    stays[free] = random.random(len(free)) >= probability
    # Draw in any case, so that the generator's state afterwards does not depend on the outcome.
    saved = random.choice(free)
    if not stays[free].any():
        stays[saved] = True
    return ids[stays]
