"""Finds the spans that tags of words tell, and counts those that are right: the exact match of
spans by type (Tjong Kim Sang & De Meulder 2003), as seqeval has it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ftray.tasks.text.tagging.told import OUTSIDE, has_prefix, kind_of

_NO_TYPE = -1


class Scheme(NamedTuple):
    """The meaning of each tag, by the index of its label.

    kinds: names of the types of spans; types: (labels + 1,) index into `kinds`, -1 for the tag
    outside of spans, and in the end for a word without a tag; begins: (labels + 1,) whether a tag
    always begins a span."""

    kinds: tuple[str, ...]
    types: np.ndarray
    begins: np.ndarray


@lru_cache
def scheme_of(labels: tuple[str, ...]) -> Scheme:
    """Return what the tags mean. Where no tag has a prefix and none is O, as with parts of speech,
    each word is a span. With O, words of one tag that follow each other are a span."""
    inside = [label for label in labels if label != OUTSIDE]
    kinds = tuple(dict.fromkeys(map(kind_of, inside)))
    words = len(inside) == len(labels) and not any(map(has_prefix, labels))
    types = [kinds.index(kind_of(label)) if label in inside else _NO_TYPE for label in labels]
    begins = [words or (has_prefix(label) and label[0] == "B") for label in labels]
    return Scheme(kinds, np.array([*types, _NO_TYPE]), np.array([*begins, False]))


class Chunks(NamedTuple):
    """Spans as indices of words: the first, the last, and the index of the type; (spans,) each."""

    first: np.ndarray
    last: np.ndarray
    kind: np.ndarray


def chunks_of(tags: np.ndarray, begins_row: np.ndarray, scheme: Scheme) -> Chunks:
    """Return the spans of a sequence of words. tags: (words,) indices of labels, or -1; begins_row:
    (words,) whether a word is the first of its row. I- after another type begins a span, too."""
    kinds = scheme.types[tags]
    inside = kinds != _NO_TYPE
    changed = np.append(True, kinds[1:] != kinds[:-1])[: len(kinds)]
    starts = inside & (scheme.begins[tags] | begins_row | changed)
    goes_on = np.append(inside[1:] & ~starts[1:], False)[: len(kinds)]
    first = np.flatnonzero(starts)
    return Chunks(first, np.flatnonzero(inside & ~goes_on), kinds[first])


def scores(
    truth: np.ndarray, predicted: np.ndarray, begins_row: np.ndarray, labels: Sequence[str]
) -> dict[str, float]:
    """Return f1, precision and recall of spans, over all types together, and the accuracy of tags.
    truth, predicted: (words,) indices of labels, -1 for a word that no token stands for."""
    scheme, count = scheme_of(tuple(labels)), len(truth)
    told, found = (
        (chunks.first * count + chunks.last) * len(scheme.kinds) + chunks.kind
        for chunks in (chunks_of(tags, begins_row, scheme) for tags in (truth, predicted))
    )
    right = len(np.intersect1d(told, found, assume_unique=True))
    return {
        "f1": 2 * right / max(1, len(told) + len(found)),
        "precision": right / max(1, len(found)),
        "recall": right / max(1, len(told)),
        "accuracy": float((truth == predicted).mean()),
    }
