"""The tokens of an example that a causal language model learns: spans of consecutive ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ftray.tasks.features import Batch, Example, Feature, Layout
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


def learnt_tokens(
    examples: Sequence[Example], layout: Layout | None = None
) -> dict[str, torch.Tensor]:
    """Return, for the N tokens to learn: the number of their example, that of their span in it, the
    row and the place of the token before, and their id, (N,) int64 each; and of each example, how
    many there are, (B,) int64. They are found here, on the host, since finding them on a device
    would make the host wait."""
    import torch

    found: list[np.ndarray] = []
    laid = zip(*layout, strict=True) if layout else ((row, 0) for row in range(len(examples)))
    for number, (example, (row, first)) in enumerate(zip(examples, laid, strict=True)):
        ids = np.asarray(example[IDS], np.int64)
        for span, (start, end) in enumerate(np.asarray(example[SPANS]).reshape(-1, 2).tolist()):
            places = np.arange(start, end)
            about = [np.full(len(places), value) for value in (number, span, row)]
            found.append(np.stack([*about, first + places - 1, ids[places]]))
    all_of = np.concatenate(found, 1) if found else np.empty((5, 0), np.int64)
    names = ("examples", "spans", "rows", "before", "ids")
    counts = torch.tensor([int(example[COUNT]) for example in examples])
    return {**dict(zip(names, torch.from_numpy(all_of), strict=True)), COUNT: counts}


def learnt_logits(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return the logits that predict the N tokens to learn, (N, V) float32. Only these logits are
    cast to float32: with a large vocabulary, float32 logits of all tokens would be the largest
    tensor of the step."""
    return logits[batch.targets["rows"], batch.targets["before"]].float()
