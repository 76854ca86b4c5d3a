"""Runs the forward passes of predictors in one thread: rows of many requests and of several models
share batches."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from ftray.models.inference.passes import PassCost
from ftray.models.inference.predictor import Predictor
from ftray.models.sharing.prefix_batching import joint_outputs
from ftray.serve.interface import BadPrompt, TooLate, require_contents
from ftray.serve.models.live import Live
from ftray.serve.ops.metrics import Metrics
from ftray.serve.runners.batcher import Batcher, Limits
from ftray.serve.runners.stopwatch import Stopwatch
from ftray.serve.schemas import MAX_READ
from ftray.spec.sections.serving import Batching
from ftray.tasks.base import Answered, Outputs, Question
from ftray.tasks.features import Example, cost

_CHARACTERS = 4
"""Rough number of characters per token."""


@dataclass(frozen=True)
class Encoded:
    """The examples of a question."""

    examples: list[Example]


Row = tuple[Live[Predictor], Question | Encoded]
"""A model, and a question, encoded or not."""
_Asked = tuple[Predictor, Question | Encoded]


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
    inference thread also encodes short questions: a batch of them costs little more than one. A
    second thread encodes long questions."""

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

    async def run(self, model: Live[Predictor], questions: Sequence[Question]) -> list[Answered]:
        """Return the examples of each question, with the model's outputs for each. Raises BadPrompt
        for a question that gives the model nothing to read, and for a request with too many
        characters. Raises Overloaded where too many rows wait, and its subclass TooLate where no
        answer comes in time."""
        seconds = self._batching.timeout_seconds
        try:
            async with asyncio.timeout(seconds) as limit:
                rows = await self._batcher.submit(await self._read(model, questions))
        except TimeoutError:
            if not limit.expired():
                raise
            message = f"no answer within {seconds:g} s"
            raise TooLate(message, self._batcher.retry_after_s) from None
        require_contents([bool(row) for row in rows])
        return list(rows)

    async def _read(self, model: Live[Predictor], questions: Sequence[Question]) -> list[Row]:
        """Make the rows of a request; long questions are encoded. Requests take turns at the
        encoding thread, one long question each."""
        rows: list[Row] = []
        predictor, budget, loop = model.loaded, _Budget(), asyncio.get_running_loop()
        for question in questions:
            if predictor.is_long(question):
                read = partial(self._encode, predictor, question, budget)
                rows.append((model, await loop.run_in_executor(self._reader, read)))
            else:
                rows.append((model, question))
        return rows

    def _encode(self, predictor: Predictor, question: Question, budget: _Budget) -> Encoded:
        with self._reading:
            (examples,) = predictor.encode([question], budget.spend)
        return Encoded(examples)

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

    def _forward(self, rows: list[Row]) -> Sequence[Answered]:
        """Return the answered examples of each row, none for a question that gives the model
        nothing to read. The batcher calls this method in its thread."""
        began, waited = time.perf_counter(), self._batcher.waited
        try:
            answered = _answered([(model.loaded, asked) for model, asked in rows])
        except Exception:
            for model, _ in rows:
                model.soundness.suspect = True
            raise
        seconds = time.perf_counter() - began
        for model, count in Counter(model for model, _ in rows).items():
            self._metrics.count_batch(model.name, model.version, count, waited, seconds)
        return answered


def _size(row: Row) -> int:
    """Return the row's cost, estimated from its characters where it is not encoded."""
    model, asked = row
    predictor = model.loaded
    if isinstance(asked, Encoded):
        return max((cost(example, predictor.features) for example in asked.examples), default=0)
    return min(predictor.task.size(asked) // _CHARACTERS, predictor.most_tokens)


def _cost(rows: Sequence[Row]) -> PassCost:
    """Return the fixed cost of a call. Rows of several models share the passes of common blocks:
    the default cost, which is very high, keeps such rows in one call."""
    (predictor, _), *others = ((model.loaded, asked) for model, asked in rows)
    alone = all(other is predictor for other, _ in others)
    return predictor.pass_cost if alone else PassCost()


def _answered(rows: Sequence[_Asked]) -> list[Answered]:
    places: dict[int, list[int]] = {}
    for place, (predictor, _) in enumerate(rows):
        places.setdefault(id(predictor), []).append(place)
    encoded: dict[int, list[Example]] = {}
    for chosen in places.values():
        predictor = rows[chosen[0]][0]
        encoded.update(zip(chosen, _encoded(predictor, [rows[p][1] for p in chosen]), strict=True))
    flat = [(rows[place][0], example) for place in range(len(rows)) for example in encoded[place]]
    outputs = iter(_outputs(flat, len(places) == 1))
    return [[(example, next(outputs)) for example in encoded[place]] for place in range(len(rows))]


def _encoded(predictor: Predictor, asked: Sequence[Question | Encoded]) -> list[list[Example]]:
    """Return the examples of each row, with one call of the processor for all questions."""
    questions = [each for each in asked if not isinstance(each, Encoded)]
    found = iter(predictor.encode(questions) if questions else [])
    return [each.examples if isinstance(each, Encoded) else next(found) for each in asked]


def _outputs(rows: Sequence[tuple[Predictor, Example]], are_of_one: bool) -> Sequence[Outputs]:
    """Return the outputs for each example. are_of_one: whether all are for the same model."""
    if not rows:
        return []
    if are_of_one:
        return rows[0][0].outputs_of([example for _, example in rows])
    return joint_outputs(rows)
