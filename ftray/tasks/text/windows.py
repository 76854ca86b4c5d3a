"""Splits a long text into windows of tokens that overlap, and tells where in the text each token
stands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ftray.errors import ModelError
from ftray.tasks.base import TaskSetup
from ftray.tasks.features import Example, Examples
from ftray.tasks.text.blank import frame, has_tokens
from ftray.tasks.text.texts import IDS, TYPES

OFFSETS = "offsets"
"""First and last character of each token of the text, flattened; -1 for other tokens."""


def windows(setup: TaskSetup, texts: Sequence[str], stride: int) -> Iterator[Example]:
    """Yield the windows of the last of `texts`, which share `stride` tokens; each has the other
    text, if there is one, before it, and `OFFSETS`. A window in which one of the texts gives no
    token is left out. Raises ModelError for a tokenizer in Python, which tells no offsets."""
    tokenizer, around, last = setup.processor, frame(setup.processor), len(texts) - 1
    if not tokenizer.is_fast:
        raise ModelError.of(
            "model.name_or_path",
            tokenizer.name_or_path,
            "its tokenizer does not tell where in a text a token stands",
            "name a model with a fast tokenizer (tokenizer.json)",
        )
    room = setup.max_length - len(tokenizer(*texts[:-1], "")[IDS])
    found = tokenizer(
        *texts,
        truncation="only_second" if last else "only_first",
        max_length=setup.max_length,
        stride=max(0, min(stride, room - 1)),
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,
    )
    for number, ids in enumerate(found[IDS]):
        parts = found.sequence_ids(number)
        if not all(
            has_tokens([i for i, p in zip(ids, parts, strict=True) if p == part], around)
            for part in range(len(texts))
        ):
            continue
        offsets = [
            span if part == last else (-1, -1)
            for span, part in zip(found["offset_mapping"][number], parts, strict=True)
        ]
        types = {TYPES: found[TYPES][number]} if TYPES in found else {}
        yield {IDS: ids, **types, OFFSETS: np.array(offsets, dtype=np.int32).ravel()}


def places_of(example: Example) -> np.ndarray:
    """Return the first and last character of each token, (T, 2)."""
    return np.asarray(example[OFFSETS]).reshape(-1, 2)


def examples_of(rows: Iterable[Sequence[Example]]) -> Examples:
    """Return the windows of all rows as examples. A row without windows is rejected."""
    found = Examples({}, [], [], {})
    for place, made in enumerate(rows):
        if not made:
            found.rejected[place] = "no_tokens"
            continue
        for example in made:
            found.add(place, example)
        found.lengths.append(sum(len(example[IDS]) for example in made))
    return found
