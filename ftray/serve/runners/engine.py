"""Runs the forward passes of classifiers in one thread: rows of many requests and of several models
share batches."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch

from ftray.models.inference.passes import PassCost
from ftray.models.inference.predictor import Predictor
from ftray.models.sharing.prefix_batching import joint_logits
from ftray.serve.interface import BadPrompt, require_contents
from ftray.serve.ops.metrics import Metrics
from ftray.serve.runners.batcher import Batcher, Limits, TooLate
from ftray.serve.runners.soundness import Soundness
from ftray.serve.runners.stopwatch import Stopwatch
from ftray.serve.schemas import MAX_READ
from ftray.spec.sections.serving import Batching

_CHARACTERS = 4
"""Rough number of characters per token."""


class Asked(Protocol):
    """The model that a row is for."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int | None: ...

    @property
    def predictor(self) -> Predictor: ...

    @property
    def soundness(self) -> Soundness: ...


Row = tuple[Asked, str | Sequence[int]]
"""A model, and a text or its token ids."""
_Asked = tuple[Predictor, str | Sequence[int]]


@dataclass
class _Budget:
    """Number of characters of one request that the tokenizer may still read."""

    left: int = MAX_READ

    def spend(self, characters: int) -> None:
        self.left -= characters
        if self.left < 0:
            limit = f"of one request {MAX_READ:,} characters are read at most"
            raise BadPrompt("prompt", f"{limit}: send fewer or shorter texts", "too_long")


class Engine:
    """The inference thread of one or several models, and the rows that wait for the thread. The
    inference thread also tokenizes short texts: a batch of them costs little more than one text. A
    second thread tokenizes long texts."""

    def __init__(self, batching: Batching, metrics: Metrics) -> None:
        self._batching, self._metrics = batching, metrics
        limits = Limits(
            batching.max_size,
            batching.wait_ms / 1000,
            batching.max_waiting,
            batching.hung_seconds,
        )
        self._batcher = Batcher(self._forward, limits, _size, _cost)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="tokens")
        self._reading = Stopwatch(batching.hung_seconds)

    def another(self) -> Engine:
        """Return a new engine with the same settings and a thread of its own."""
        return Engine(self._batching, self._metrics)

    async def logits(self, model: Asked, texts: Sequence[str]) -> torch.Tensor:
        """Return logits (len(texts), C) float32, C the number of labels of `model`. Raises
        BadPrompt for a text without any token and for a request with too many characters. Raises
        Overloaded where too many rows wait, and its subclass TooLate where no answer comes in
        time."""
        seconds = self._batching.timeout_seconds
        try:
            async with asyncio.timeout(seconds) as limit:
                rows = await self._batcher.submit(await self._read(model, texts))
        except TimeoutError:
            if not limit.expired():
                raise
            message = f"no answer within {seconds:g} s"
            raise TooLate(message, self._batcher.retry_after_s) from None
        require_contents([row is not None for row in rows])
        return torch.stack([row for row in rows if row is not None])

    async def _read(self, model: Asked, texts: Sequence[str]) -> list[Row]:
        """Make the rows of a request, with token ids for long texts. Requests take turns at the
        tokenizing thread, one long text each."""
        rows: list[Row] = []
        predictor, budget, loop = model.predictor, _Budget(), asyncio.get_running_loop()
        for text in texts:
            if predictor.is_long(text):
                read = partial(self._encode, predictor, text, budget)
                ids = await loop.run_in_executor(self._reader, read)
                rows.append((model, ids))
            else:
                rows.append((model, text))
        return rows

    def _encode(self, predictor: Predictor, text: str, budget: _Budget) -> Sequence[int]:
        with self._reading:
            (ids,) = predictor.encode([text], budget.spend)
        return ids

    async def between(self, work: Callable[[], None]) -> None:
        """Do `work` in the inference thread, between two calls. Raises what `work` raises."""
        await self._batcher.between(work)

    @property
    def fault(self) -> str:
        """Message that one of the two threads hangs; empty while none does."""
        return self._batcher.watch.fault or self._reading.fault

    @property
    def waiting(self) -> int:
        """Rows that wait for a batch."""
        return self._batcher.waiting

    @property
    def utilization(self) -> float:
        """Rows in hand, as a share of a full batch."""
        return self._batcher.in_hand / self._batching.max_size

    def close(self) -> None:
        """Close the batcher. The caller sends no new request; those that have begun are still
        answered."""
        self._batcher.close()

    def _forward(self, rows: list[Row]) -> Sequence[torch.Tensor | None]:
        """Return the logits (C,) of each row, None for a text without any token. The batcher calls
        this method in its thread."""
        began, waited = time.perf_counter(), self._batcher.waited
        try:
            logits = _logits([(model.predictor, asked) for model, asked in rows])
        except Exception:
            for model, _ in rows:
                model.soundness.suspect = True
            raise
        seconds = time.perf_counter() - began
        for model, count in Counter(model for model, _ in rows).items():
            self._metrics.count_batch(model.name, model.version, count, waited, seconds)
        return logits


def _size(row: Row) -> int:
    """Return the row's number of tokens, estimated from its characters where it is a text."""
    model, asked = row
    tokens = len(asked) // _CHARACTERS if isinstance(asked, str) else len(asked)
    return min(tokens, model.predictor.most_tokens)


def _cost(rows: Sequence[Row]) -> PassCost:
    """Return the fixed cost of a call. Rows of several models share the passes of common blocks:
    the default cost, which is very high, keeps such rows in one call."""
    (predictor, _), *others = ((model.predictor, asked) for model, asked in rows)
    alone = all(other is predictor for other, _ in others)
    return predictor.pass_cost if alone else PassCost()


def _logits(rows: Sequence[_Asked]) -> Sequence[torch.Tensor | None]:
    places: dict[int, list[int]] = {}
    for place, (predictor, _) in enumerate(rows):
        places.setdefault(id(predictor), []).append(place)
    ids: dict[int, Sequence[int]] = {}
    for chosen in places.values():
        predictor = rows[chosen[0]][0]
        encoded = zip(chosen, _ids(predictor, [rows[place][1] for place in chosen]), strict=True)
        ids.update((place, row) for place, row in encoded if predictor.has_tokens(row))
    logits: list[torch.Tensor | None] = [None] * len(rows)
    for place, row in zip(ids, _of_ids(rows, ids, len(places) == 1), strict=True):
        logits[place] = row
    return logits


def _ids(predictor: Predictor, asked: Sequence[str | Sequence[int]]) -> list[Sequence[int]]:
    """Return the token ids of each row, with one tokenizer call for all texts."""
    texts = [each for each in asked if isinstance(each, str)]
    found = iter(predictor.encode(texts) if texts else [])
    return [next(found) if isinstance(each, str) else each for each in asked]


def _of_ids(
    rows: Sequence[_Asked],
    ids: Mapping[int, Sequence[int]],
    are_of_one: bool,
) -> Sequence[torch.Tensor]:
    """Return the logits of the rows whose places are the keys of `ids`, in the order of `ids`.
    are_of_one: whether all rows are for the same model."""
    if not ids:
        return []
    if are_of_one:
        predictor, _ = rows[0]
        return predictor.logits_of(list(ids.values())).unbind()
    return joint_logits([(rows[place][0], row) for place, row in ids.items()])
