"""The thread in which models compute: rows of many requests and several models share batches."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from ftray.models.joint import joint_logits
from ftray.models.predictor import Predictor
from ftray.serve.backend import require_contents
from ftray.serve.batcher import Batcher, Limits
from ftray.serve.metrics import Metrics
from ftray.spec.serving import Batching


class Asked(Protocol):
    """The model that a row is for."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int | None: ...

    @property
    def predictor(self) -> Predictor: ...


class Engine:
    """A thread, and the rows that wait for it."""

    def __init__(self, batching: Batching, metrics: Metrics) -> None:
        self._batching, self._metrics = batching, metrics
        limits = Limits(
            batching.max_size,
            batching.wait_ms / 1000,
            batching.max_waiting,
            batching.timeout_seconds,
        )
        # Characters say well enough which texts are alike: their tokens are counted in the model's
        # thread, where a batch of them costs little more than one.
        self._batcher = Batcher(self._forward, limits, lambda row: len(row[1]))

    def another(self) -> Engine:
        """One like this, with a thread of its own."""
        return Engine(self._batching, self._metrics)

    async def logits(self, model: Asked, texts: Sequence[str]) -> torch.Tensor:
        """(len(texts), C) float32, C the labels of `model`. Raises BadPrompt for texts that become
        no tokens, and Overloaded."""
        rows = await self._batcher.submit([(model, text) for text in texts])
        require_contents([row is not None for row in rows])
        return torch.stack([row for row in rows if row is not None])

    @property
    def waiting(self) -> int:
        """Rows that wait for a batch."""
        return self._batcher.waiting

    def close(self) -> None:
        """Nobody asks from now on but those who have begun; they are still answered."""
        self._batcher.close()

    def _forward(self, rows: list[tuple[Asked, str]]) -> Sequence[torch.Tensor | None]:
        """Logits of each row, None for a text that becomes no tokens. Runs in the batcher's
        thread."""
        began, waited = time.perf_counter(), self._batcher.waited
        logits = _logits([(model.predictor, text) for model, text in rows])
        seconds = time.perf_counter() - began
        for model, count in Counter(model for model, _ in rows).items():
            self._metrics.count_batch(model.name, model.version, count, waited, seconds)
        return logits


def _logits(rows: Sequence[tuple[Predictor, str]]) -> Sequence[torch.Tensor | None]:
    places: dict[int, list[int]] = {}
    for place, (predictor, _) in enumerate(rows):
        places.setdefault(id(predictor), []).append(place)
    ids: dict[int, Sequence[int]] = {}
    for chosen in places.values():
        predictor, texts = rows[chosen[0]][0], [rows[place][1] for place in chosen]
        encoded = zip(chosen, predictor.encode(texts), strict=True)
        ids.update((place, row) for place, row in encoded if predictor.has_tokens(row))
    logits: list[torch.Tensor | None] = [None] * len(rows)
    for place, row in zip(ids, _of_ids(rows, ids, len(places) == 1), strict=True):
        logits[place] = row
    return logits


def _of_ids(
    rows: Sequence[tuple[Predictor, str]], ids: Mapping[int, Sequence[int]], are_of_one: bool
) -> Sequence[torch.Tensor]:
    """Logits of the rows at the places that `ids` has, in its order."""
    if not ids:
        return []
    if are_of_one:
        predictor, _ = rows[0]
        return predictor.logits_of(list(ids.values())).unbind()
    return joint_logits([(rows[place][0], row) for place, row in ids.items()])
