"""The tokens of an example that a causal language model learns: spans of consecutive ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ftray.tasks.features import Batch, Example, Feature
from ftray.tasks.text.texts import IDS

if TYPE_CHECKING:
    import torch

SPANS, COUNT = "spans", "learnt_tokens"
"""Features: first token and end of each span of tokens to learn, (2 * spans,); number of these
tokens. The first token of a sequence is in no span: no token before it predicts it."""
LEARNT_FEATURES = {SPANS: Feature("int32", None, "host"), COUNT: Feature("int64", (), "host")}
Span = tuple[int, int]


def learnt_features(spans: Sequence[Span]) -> Example:
    """Return the features of an example with these spans."""
    return {
        SPANS: [place for span in spans for place in span],
        COUNT: sum(end - start for start, end in spans),
    }


def without_first(count: int, spans: Sequence[Span]) -> list[Span]:
    """Return the spans of a sequence whose first `count` tokens are left out."""
    moved = [(max(1, start - count), end - count) for start, end in spans]
    return [(start, end) for start, end in moved if start < end]


def learnt_tokens(examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """Return, for the N tokens to learn: the row of their example, the number of their span in it,
    the place of the token before, and their id, (N,) int64 each. They are found here, on the host,
    since finding them on a device would make the host wait."""
    import torch

    found: list[np.ndarray] = []
    for row, example in enumerate(examples):
        ids = np.asarray(example[IDS], np.int64)
        for number, (start, end) in enumerate(np.asarray(example[SPANS]).reshape(-1, 2).tolist()):
            places = np.arange(start, end)
            about = [np.full(len(places), value) for value in (row, number)]
            found.append(np.stack([*about, places - 1, ids[places]]))
    all_of = np.concatenate(found, 1) if found else np.empty((4, 0), np.int64)
    names = ("rows", "spans", "before", "ids")
    return dict(zip(names, torch.from_numpy(all_of), strict=True))


def learnt_logits(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return the logits that predict the N tokens to learn, (N, V) float32. Only these logits are
    cast to float32: with a large vocabulary, float32 logits of all tokens would be the largest
    tensor of the step."""
    return logits[batch.targets["rows"], batch.targets["before"]].float()
