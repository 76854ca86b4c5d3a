"""Reads a question and its context as windows, and finds an answer's tokens in a window."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ftray.tasks.base import TaskSetup
from ftray.tasks.features import Example
from ftray.tasks.text.windows import places_of, windows

CONTEXT = "context"
"""Feature of a window on the host: the whole context in UTF-8."""


def context_windows(
    setup: TaskSetup, question: str, context: str, stride: int
) -> Iterator[Example]:
    """Yield the windows of a context, each with the question before it and with `CONTEXT`. A
    question takes at most half of a window. Raises ModelError as `windows` does."""
    asked = _shortened(setup.processor, question, setup.max_length // 2)
    text = np.frombuffer(context.encode("utf-8", "surrogatepass"), np.uint8)
    for window in windows(setup, (asked, context), stride):
        yield {**window, CONTEXT: text}


def _shortened(tokenizer: Any, question: str, most: int) -> str:
    """Return the part of a question that its first `most` tokens stand for."""
    found = tokenizer(
        question, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    offsets = found["offset_mapping"]
    return question if len(offsets) <= most else question[: offsets[most - 1][1]]


def target_of(window: Example, answer: tuple[int, int] | None) -> tuple[int, int]:
    """Return the first and the last token of an answer, given as characters; (0, 0) where the
    window does not hold all of it."""
    starts, ends = places_of(window).T
    inside = np.flatnonzero(starts >= 0)
    if answer is None or answer[0] < starts[inside[0]] or answer[1] > ends[inside[-1]]:
        return 0, 0
    first = inside[np.flatnonzero(starts[inside] <= answer[0])[-1]]
    last = inside[np.flatnonzero(ends[inside] >= answer[1])[0]]
    return int(first), int(max(first, last))


def context_of(example: Example) -> str:
    return bytes(np.asarray(example[CONTEXT])).decode("utf-8", "surrogatepass")
