"""Targets of the examples of a row: the texts that belong together, and those that do not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from ftray.tasks.features import Feature
from ftray.tasks.text.retrieval.scores import scaled

PART, TEXT, GROUP, SCORE = "part", "text_key", "group_key", "score"
"""Targets: place of a text in its row; a number that equal texts share, of which negatives are
none; one that rows with the same query, or texts with the same label, share; the cosine that two
texts are to have. Rows with a label lack `PART` and `TEXT`, those with a score `TEXT` and
`GROUP`."""
TARGETS = {
    PART: Feature("int8", (), "target"),
    TEXT: Feature("int64", (), "target"),
    GROUP: Feature("int64", (), "target"),
    SCORE: Feature("float32", (), "target"),
}


def targets_of(
    rows: Mapping[str, Sequence[Any]],
    ids: Sequence[Mapping[int, Sequence[int]]],
    whole: Sequence[int],
    full_score: float,
) -> Iterator[tuple[str, Any]]:
    """Yield the targets of the rows `whole`: name, and a value for each text of each row."""
    width = len(ids)
    if "label" in rows:
        yield GROUP, [fingerprint(rows["label"][row].encode()) for row in whole]
        return
    yield PART, np.tile(np.arange(width, dtype=np.int64), len(whole))
    if "score" in rows:
        told = [rows["score"][row][0] for row in whole]
        yield SCORE, np.repeat(scaled(told, full_score, -1.0), width)
        return
    texts = [[fingerprint(np.array(of[row], np.int64).tobytes()) for of in ids] for row in whole]
    yield TEXT, np.array(texts, np.int64)
    yield GROUP, np.repeat([row[0] for row in texts], width)


def fingerprint(content: bytes) -> int:
    """Return a number that equal contents share, and others do not."""
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "big", signed=True)
