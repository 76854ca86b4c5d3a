"""Scores that tell how near two texts are, as rows have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ftray.errors import DataError
from ftray.tasks.base import BadRow
from ftray.tasks.regression import clean_numbers


def clean_score(value: Any) -> list[float]:
    """Return the score of a source row in a list. Raises BadRow."""
    if isinstance(value, (bool, np.bool_)):
        return [float(value)]
    found = clean_numbers(value)
    if len(found) > 1:
        raise BadRow("score_not_a_number", repr(value)[:80])
    return found


def scaled(scores: Sequence[float], full: float, least: float) -> np.ndarray:
    """Return scores as shares of the full one, float32. Raises DataError where one is below the
    share `least`, or above 1."""
    found = np.array(scores) / full
    if wrong := [s for s, share in zip(scores, found, strict=True) if not least <= share <= 1]:
        raise DataError.of(
            "data.columns.score",
            wrong[0],
            f"scores are from {least * full:g} to {full:g}",
            "set task_options.full_score to the highest score, and move scores that are too low",
        )
    return found.astype(np.float32)
