"""Splits a text into words, where the data does not say what its words are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Scripts that put no spaces between words (Thai to Khmer, kana, ideographs): each character is a
word."""
_OPENING = "([{<\"'\u00a1\u00ab\u00bf\u2018\u201c\u201e"
_CLOSING = ".,;:!?)]}>\"'\u00bb\u2019\u201d\u2026"
_RUN = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")


class Word(NamedTuple):
    """A word of a text, from the character `start` up to `end`."""

    start: int
    end: int


def words_of(text: str) -> Iterator[Word]:
    """Yield the words of a text: what stands between spaces. A bracket, a quotation mark or
    another mark at an end of it is a word of its own, and a mark inside it is none."""
    for run in _RUN.finditer(text):
        inner = run[0].rstrip(_CLOSING)
        end = run.start() + len(inner)
        start = end - len(inner.lstrip(_OPENING))
        yield from (Word(place, place + 1) for place in range(run.start(), start))
        if start < end:
            yield Word(start, end)
        yield from (Word(place, place + 1) for place in range(end, run.end()))


def split_at(words: Iterable[Word], places: Iterable[int]) -> Iterator[Word]:
    """Yield the words, split at the places that lie inside them."""
    cuts = sorted(set(places))
    at = 0
    for start, end in words:
        while at < len(cuts) and cuts[at] <= start:
            at += 1
        while at < len(cuts) and cuts[at] < end:
            yield Word(start, cuts[at])
            start = cuts[at]
            at += 1
        yield Word(start, end)
