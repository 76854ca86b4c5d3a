"""Hides tokens of a text, which a masked language model learns to find (Devlin et al. 2019)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from ftray.errors import ModelError

_HIDDEN, _REPLACED = 0.8, 0.9
"""Of the chosen tokens, four fifths become the mask token, a tenth another token, and a tenth
stay."""


def mask_of(tokenizer: Any) -> int:
    """Return the mask token. Raises ModelError where the tokenizer has none."""
    if tokenizer.mask_token_id is None:
        raise ModelError.of(
            "model.name_or_path",
            tokenizer.name_or_path,
            "its tokenizer has no mask token",
            "name a masked language model, for example of BERT or RoBERTa",
        )
    token: int = tokenizer.mask_token_id
    return token


def maskable(ids: Sequence[int] | np.ndarray, tokenizer: Any) -> np.ndarray:
    """Return the places of the tokens that may be hidden: those that are not special."""
    return np.flatnonzero(~np.isin(ids, tokenizer.all_special_ids))


def chosen_count(free: int, share: float) -> int:
    """Return how many of `free` tokens are hidden: at least one."""
    return max(1, round(share * free))


def hidden(
    ids: np.ndarray, share: float, tokenizer: Any, draw: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids with a share of the tokens hidden, (T,), and the places of these, rising."""
    free = maskable(ids, tokenizer)
    places = np.sort(draw.choice(free, chosen_count(len(free), share), replace=False))
    lot, others = draw.random(len(places)), draw.integers(len(tokenizer), size=len(places))
    kept = np.where(lot < _REPLACED, others, ids[places])
    shown = np.array(ids)
    shown[places] = np.where(lot < _HIDDEN, mask_of(tokenizer), kept)
    return shown, places


def fixed_draw(ids: np.ndarray) -> np.random.Generator:
    """Return a generator that is the same for the same ids, whatever machine or row they are of."""
    digest = hashlib.blake2b(np.ascontiguousarray(ids, "<i4").tobytes(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))
