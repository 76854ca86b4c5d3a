"""Measures a model on rows, in passes whose number of logits is limited."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ftray.tasks.base import Metrics, Task
from ftray.tasks.per_label import most_confused

MOST_LOGITS = 2**26
"""Most logits of one pass of a generating model, which has one logit for each token of a row and
each vocabulary entry: 256 MB in fp32, of which several copies exist."""


@dataclass(frozen=True)
class Measured:
    """The metrics of a model on rows. predicted, scores: (rows,), the index of each row's likeliest
    label and its probability; None where rows have no labels."""

    metrics: Metrics
    predicted: np.ndarray | None = None
    scores: np.ndarray | None = None


def measure(
    model: Any,
    task: Task,
    ids: Sequence[Sequence[int] | np.ndarray],
    targets: np.ndarray,
    labels: Sequence[str],
    pad_id: int,
    rows: int,
) -> Measured:
    """Return the metrics of rows, and the commonest mistakes (`confused`) where rows have labels.
    `model` is in eval mode; rows: most rows of one pass."""
    words = model.get_input_embeddings().num_embeddings if task.info.generates else 0
    # No KV cache: no tokens are generated here.
    options = {"use_cache": False} if task.info.generates else {}
    device = next(model.parameters()).device
    total = torch.from_numpy(task.empty_metric_state(labels)).to(device)
    order: list[np.ndarray] = []
    likeliest: list[torch.return_types.max] = []
    for places in _passes(np.array([len(row) for row in ids]), rows, words):
        inputs = task.collate([ids[place] for place in places], pad_id)
        moved = {name: t.to(device, non_blocking=True) for name, t in inputs.items()}
        aims = torch.from_numpy(targets[places])
        with torch.inference_mode():
            logits = model(**moved, **options).logits
            total += task.metric_state(logits, inputs, aims)
            if task.info.has_labels:
                likeliest.append(torch.softmax(logits.float(), -1).max(-1))
        order.append(places)
    metrics = task.metrics(total.cpu().numpy(), labels)
    if not task.info.has_labels:
        return Measured(metrics)
    places = np.concatenate(order)
    predicted, scores = np.zeros(len(ids), dtype=np.int64), np.zeros(len(ids))
    predicted[places] = torch.cat([found.indices for found in likeliest]).cpu().numpy()
    scores[places] = torch.cat([found.values for found in likeliest]).cpu().numpy()
    confused = most_confused(targets, predicted, labels)
    return Measured({**metrics, "confused": confused}, predicted, scores)


def _passes(lengths: np.ndarray, rows: int, words: int) -> Iterator[np.ndarray]:
    """Yield the places of rows that share a pass: rows of similar length."""
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        stop = start + 1
        while (
            stop < min(len(order), start + rows)
            and (stop + 1 - start) * lengths[order[stop]] * words <= MOST_LOGITS
        ):
            stop += 1
        yield order[start:stop]
        start = stop
