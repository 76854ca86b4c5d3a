"""Answers that share the passes of a causal language model, and their keys and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch

from ftray.models.drawing import Answer, draw
from ftray.models.roomy_cache import RoomyCache


class DecodingBatch:
    """Padded on the left so that the newest tokens are in line; where an answer begins follows from
    its length alone."""

    def __init__(self, answers: Sequence[Answer], alone: bool = False) -> None:
        """answers: none of their tokens has been read; alone: no other batch may join."""
        self.answers = list(answers)
        self.alone = alone
        self._cache = RoomyCache()
        self._read = 0
        """So many first columns are in the cache."""

    @property
    def columns(self) -> int:
        return max(map(len, self.answers))

    def padding(self) -> int:
        """Places without a token, of all rows."""
        return self.columns * len(self.answers) - sum(map(len, self.answers))

    def cost_of_joining(self, other: Self) -> int:
        """Places without a token that are only there when both are one batch."""
        return abs(self.columns - other.columns) * len(min(self, other, key=_columns).answers)

    def advance(self, model: Any, pad_id: int, options: Mapping[str, Any], most: int) -> bool:
        """Read up to `most` tokens that are not in the cache yet, at least one of each row; once
        all are, draw the next one of each. Whether it was drawn. After an exception of the model
        the batch is of no more use."""
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
        """(B, V) float32: what follows the columns from `start` to `end`."""
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
        """Take in the answers of another batch; of both all but the newest tokens are read."""
        self._cache.join(other._cache)
        self.answers += other.answers
        self._read = self.columns - 1

    def part(self) -> bool:
        """Those that have ended leave; the last rows that go on take the places of others. Whether
        any goes on."""
        ended = [place for place, answer in enumerate(self.answers) if answer.finish]
        if not ended:
            return True
        rows = len(self.answers) - len(ended)
        free = [place for place in ended if place < rows]
        moving = [place for place in range(rows, len(self.answers)) if place not in set(ended)]
        for place, source in zip(free, moving, strict=True):
            self.answers[place] = self.answers[source]
        del self.answers[rows:]
        if rows and self._read:  # of several answers all is read or nothing
            self._read = self.columns - 1
            self._cache.keep(rows, self._read, moving, free)
        return rows > 0


def _columns(batch: DecodingBatch) -> int:
    return batch.columns
