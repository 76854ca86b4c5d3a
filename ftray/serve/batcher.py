"""Dynamic batching: rows of many requests share one call of the model."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


@dataclass
class _Request(Generic[Answer]):
    """Rows that came together: their answers go back together."""

    done: asyncio.Future[list[Answer]]
    missing: int
    arrived: float
    answers: dict[int, Answer] = field(default_factory=dict)

    def put(self, place: int, answer: Answer) -> None:
        self.answers[place] = answer
        if len(self.answers) == self.missing and not self.done.done():
            self.done.set_result([self.answers[place] for place in range(self.missing)])


@dataclass(frozen=True)
class _Row(Generic[Answer]):
    text: str
    place: int
    request: _Request[Answer]


class Batcher(Generic[Answer]):
    """Calls `run` in a thread of its own, with at most `max_rows` rows at a time.

    A row waits `wait_s` seconds at most for others to join it, and as long as the call before it
    takes. Belongs to the event loop on which `submit` is first called.
    """

    def __init__(
        self, run: Callable[[list[str]], Sequence[Answer]], max_rows: int, wait_s: float
    ) -> None:
        self._run = run
        self._max_rows = max_rows
        self._wait_s = wait_s
        self._rows: deque[_Row[Answer]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._arrival = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    async def submit(self, texts: Sequence[str]) -> list[Answer]:
        """The answers to `texts`, in their order. Raises what `run` raised for any of them.

        When the caller is cancelled, its rows that still wait are not computed.
        """
        loop = asyncio.get_running_loop()
        if self._worker is None:
            self._worker = loop.create_task(self._work())
        request: _Request[Answer] = _Request(loop.create_future(), len(texts), loop.time())
        self._rows.extend(_Row(text, place, request) for place, text in enumerate(texts))
        self._arrival.set()
        return await request.done

    async def _work(self) -> None:
        while True:
            await self._gather()
            if batch := self._take():
                await self._answer(batch)

    async def _gather(self) -> None:
        """Until a batch is full, or its first row has waited long enough."""
        loop = asyncio.get_running_loop()
        while not self._rows:
            self._arrival.clear()
            await self._arrival.wait()
        end = self._rows[0].request.arrived + self._wait_s
        while len(self._rows) < self._max_rows and loop.time() < end:
            self._arrival.clear()
            try:
                async with asyncio.timeout_at(end):
                    await self._arrival.wait()
            except TimeoutError:
                return

    def _take(self) -> list[_Row[Answer]]:
        batch: list[_Row[Answer]] = []
        while self._rows and len(batch) < self._max_rows:
            row = self._rows.popleft()
            # Done already: its caller went away, or another of its rows failed.
            if not row.request.done.done():
                batch.append(row)
        return batch

    async def _answer(self, batch: list[_Row[Answer]]) -> None:
        loop = asyncio.get_running_loop()
        call = loop.run_in_executor(self._thread, self._run, [row.text for row in batch])
        await asyncio.wait([call])
        if error := call.exception():
            for row in batch:
                if not row.request.done.done():
                    row.request.done.set_exception(error)
            return
        for row, answer in zip(batch, call.result(), strict=True):
            row.request.put(row.place, answer)
