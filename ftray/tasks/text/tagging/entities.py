"""Turns the tags of words into spans of characters, the answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ftray.tasks.base import Answered
from ftray.tasks.text.tagging.chunks import Chunks, chunks_of, scheme_of
from ftray.tasks.text.tagging.pieces import words_in


def spans_of(words: np.ndarray, tags: np.ndarray, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return the spans of words, {"entity_group", "start", "end"} each. words: (W, 2) first and
    last character; tags: (W,) indices of labels, -1 for none."""
    kinds = scheme_of(tuple(labels)).kinds
    return [
        {"entity_group": kinds[kind], "start": int(words[first, 0]), "end": int(words[last, 1])}
        for first, last, kind in zip(*_chunks(tags, labels), strict=True)
    ]


def entities_of(text: str, parts: Answered, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return the spans of a text, {"entity_group", "score", "word", "start", "end"} each. score:
    the mean probability of the tags of its words."""
    import torch

    words = np.concatenate([words_in(example) for example, _ in parts])
    shares = [
        torch.softmax(outputs["logits"].float(), -1)[words_in(example)[:, 0]].max(-1)
        for example, outputs in parts
    ]
    scores = np.concatenate([share.values.numpy() for share in shares])
    tags = np.concatenate([share.indices.numpy() for share in shares])
    tags = np.where(words[:, 0] >= 0, tags, -1)
    first, last, _ = _chunks(tags, labels)
    spans = spans_of(words[:, 1:], tags, labels)
    return [
        {
            "entity_group": span["entity_group"],
            "score": float(scores[begin : end + 1].mean()),
            "word": text[span["start"] : span["end"]],
            "start": span["start"],
            "end": span["end"],
        }
        for span, begin, end in zip(spans, first, last, strict=True)
    ]


def _chunks(tags: np.ndarray, labels: Sequence[str]) -> Chunks:
    return chunks_of(tags, np.arange(len(tags)) == 0, scheme_of(tuple(labels)))
