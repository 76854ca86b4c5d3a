"""A batch of answers that share forward passes of a causal language model, and its KV cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch

from ftray.models.generation.kv_cache import RoomyCache
from ftray.models.generation.sampler import Answer, draw


class DecodingBatch:
    """Computes answers in shared passes. Rows are padded on the left, so that the newest tokens of
    all rows stand in the last column. The length of an answer tells the column in which it
    begins."""

    def __init__(self, answers: Sequence[Answer], alone: bool = False) -> None:
        """answers: the model has read none of their tokens; alone: no other batch may join."""
        self.answers = list(answers)
        self.alone = alone
        self._cache = RoomyCache()
        self._read = 0
        """Number of first columns whose keys and values are in the cache."""

    @property
    def columns(self) -> int:
        return max(map(len, self.answers))

    def padding(self) -> int:
        """Count padding positions, in all rows."""
        return self.columns * len(self.answers) - sum(map(len, self.answers))

    def cost_of_joining(self, other: Self) -> int:
        """Count the padding positions that joining both batches adds."""
        return abs(self.columns - other.columns) * len(min(self, other, key=_columns).answers)

    def advance(self, model: Any, pad_id: int, options: Mapping[str, Any], most: int) -> bool:
        """Read up to `most` tokens that are not in the cache yet, at least one of each row. Once
        all tokens are read, draw the next token of each row. Return whether tokens were drawn. When
        the model raises, the batch can no longer be used."""
        width = max(1, most // len(self.answers))
        start, end = self._read, min(self._read + width, self.columns)
        logits = self._forward(model, pad_id, options, start, end)
        self._read = end
        if end < self.columns:
            return False
        draw(self.answers, logits)
        return True

    def _forward(
        self, model: Any, pad_id: int, options: Mapping[str, Any], start: int, end: int
    ) -> torch.Tensor:
        """Read the columns from `start` to `end`; return logits (B, V) float32 of the next
        token."""
        columns, device = self.columns, model.device
        offsets = [columns - len(answer) for answer in self.answers]
        ids = []
        for answer, offset in zip(self.answers, offsets, strict=True):
            tokens = answer.ids(max(0, start - offset), max(0, end - offset))
            ids.append([pad_id] * (end - start - len(tokens)) + tokens)
        positions = torch.arange(end, device=device) - torch.tensor(offsets, device=device)[:, None]
        logits = model(
            input_ids=torch.tensor(ids, device=device),
            attention_mask=(positions >= 0).long(),
            position_ids=positions[:, start:].clamp(min=0),
            past_key_values=self._cache,
            use_cache=True,
            **options,
        ).logits
        return logits[:, -1].float()

    def join(self, other: Self) -> None:
        """Add the answers of another batch. In both batches, all tokens but the newest are read."""
        self._cache.join(other._cache)
        self.answers += other.answers
        self._read = self.columns - 1

    def part(self) -> bool:
        """Remove answers that have ended; the last rows move to their places. Return whether any
        answer is left."""
        ended = [place for place, answer in enumerate(self.answers) if answer.finish]
        if not ended:
            return True
        rows = len(self.answers) - len(ended)
        free = [place for place in ended if place < rows]
        moving = [place for place in range(rows, len(self.answers)) if place not in set(ended)]
        for place, source in zip(free, moving, strict=True):
            self.answers[place] = self.answers[source]
        del self.answers[rows:]
        if rows and self._read:  # a batch of several answers is read wholly or not at all
            self._read = self.columns - 1
            self._cache.keep(rows, self._read, moving, free)
        return rows > 0


def _columns(batch: DecodingBatch) -> int:
    return batch.columns
