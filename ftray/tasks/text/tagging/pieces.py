"""Finds the token that stands for each word: its first one, in one of the windows of the text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ftray.tasks.features import Example
from ftray.tasks.text.windows import OFFSETS, places_of

WORDS = "words"
"""Feature of a window on the host: of each word that the window answers for its first token and its
first and last character, flattened; the token is -1 where the tokenizer makes nothing of a word."""


def with_words(
    windows: Sequence[Example], words: np.ndarray
) -> Iterator[tuple[Example, np.ndarray]]:
    """Yield the windows of a text that answer for words, each with `WORDS` and the numbers of these
    words. words: (N, 2) first and last character of each.

    Of the windows with a word, the one answers for it in which it stands farthest from an end where
    the text goes on. Words keep their order over the windows.
    """
    owner, token = _owners(windows, words)
    for number, window in enumerate(windows):
        own = np.flatnonzero(owner == number)
        if len(own):
            found = np.column_stack([token[own], words[own]]).astype(np.int32)
            rest = {name: value for name, value in window.items() if name != OFFSETS}
            yield {**rest, WORDS: found.ravel()}, own


def _owners(windows: Sequence[Example], words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the window that answers for each word, -1 for none, and the token in it, (N,) each."""
    owner, token, best = (np.full(len(words), -1) for _ in range(3))
    for number, window in enumerate(windows):
        places = places_of(window)
        inside = np.flatnonzero(places[:, 0] >= 0)
        starts, ends = places[inside].T
        at = np.searchsorted(ends, words[:, 0], side="right")
        there = (at < len(inside)) & (starts[np.minimum(at, len(inside) - 1)] < words[:, 1])
        before = at if number else len(words) + at
        after = len(inside) - 1 - at
        margin = np.minimum(before, after if number + 1 < len(windows) else after + at)
        chosen = there & (margin > best)
        owner[chosen], best[chosen], token[chosen] = number, margin[chosen], inside[at[chosen]]
    if (owner >= 0).any():
        # A word without a token goes with the word before it, or with the first that has one.
        known = np.maximum.accumulate(np.where(owner >= 0, np.arange(len(words)), -1))
        owner = owner[np.where(known >= 0, known, np.argmax(owner >= 0))]
    return owner, token


def words_in(example: Example) -> np.ndarray:
    """Return the words of a window, (W, 3)."""
    return np.asarray(example[WORDS]).reshape(-1, 3)
