"""Passages of a query as rows have them, and their scores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from ftray.tasks.base import BadRow, is_missing
from ftray.tasks.text.retrieval.scores import clean_score
from ftray.tasks.text.texts import clean_text


def passages_of(values: Mapping[str, Any]) -> tuple[list[str], list[float] | None]:
    """Return the passages of a source row and their scores; None where these are not told, or in a
    column of their own. Raises BadRow."""
    if "passages" in values:
        return _several(values["passages"], "passages"), None
    if "passage" in values:
        score = clean_score(values["score"]) if "score" in values else None
        return [clean_text(values["passage"], "passage")], score
    positive, negative = (_several(values[name], name) for name in ("positive", "negative"))
    return positive + negative, [1.0] * len(positive) + [0.0] * len(negative)


def _several(value: Any, column: str) -> list[str]:
    """Return the texts of a cell: a text, a list of texts, or the latter as JSON. Raises BadRow."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            told = json.loads(value)
        except ValueError:
            told = value  # a text that begins so
        value = told if isinstance(told, list) else value
    parts = value if isinstance(value, (list, tuple, np.ndarray)) else [value]
    if not len(parts) or (len(parts) == 1 and is_missing(parts[0])):
        raise BadRow(f"empty_{column}")
    texts = [clean_text(part, column) for part in parts]
    if any(not _encodes(text) for text in texts):
        raise BadRow("bad_encoding", "half a character")
    return texts


def _encodes(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
