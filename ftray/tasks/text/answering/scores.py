"""Scores an answer's text against the right answers: exact match and F1 of words (Rajpurkar et al.
2016)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def answer_scores(answer: str, gold: Sequence[str]) -> tuple[float, float]:
    """Return exact match and F1 of the words of an answer, the best over the right answers."""
    if not gold:
        return float(not answer), float(not answer)
    words = _words(answer)
    each = [(float(words == truth), _f1(words, truth)) for truth in map(_words, gold)]
    exact, f1 = zip(*each, strict=True)
    return max(exact), max(f1)


def _words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def _f1(words: Sequence[str], truth: Sequence[str]) -> float:
    shared = sum((Counter(words) & Counter(truth)).values())
    if not shared:
        return float(not words and not truth)
    return 2 * shared / (len(words) + len(truth))
