"""Dynamic batching: rows of many requests share one call of the model."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ftray.serve.turns import Waiting, next_rows

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_SMOOTHING = 0.2  # of the newest call in the speed that is told, and in the crowd's dwindling


class Overloaded(Exception):
    """More came than can be answered in time; another try makes sense after `retry_after_s`."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Limits:
    """max_rows: of one call; wait_s: how long a row waits for others to join it at most;
    max_waiting: rows that may wait before more are refused; timeout_s: after so long a row is no
    longer computed."""

    max_rows: int
    wait_s: float
    max_waiting: float = math.inf
    timeout_s: float = math.inf


@dataclass
class _Request(Generic[Answer]):
    """Rows that came together: their answers go back together."""

    done: asyncio.Future[list[Answer]]
    missing: int
    arrived: float
    since: float
    """When it had its last turn, or came."""
    answers: dict[int, Answer] = field(default_factory=dict)

    def put(self, place: int, answer: Answer) -> None:
        self.answers[place] = answer
        if len(self.answers) == self.missing and not self.done.done():
            self.done.set_result([self.answers[place] for place in range(self.missing)])

    def fail(self, error: BaseException) -> None:
        if not self.done.done():
            self.done.set_exception(error)


@dataclass(frozen=True, eq=False)
class _Row(Generic[Item, Answer]):
    item: Item
    place: int
    request: _Request[Answer]


class Batcher(Generic[Item, Answer]):
    """Calls `run` in a thread of its own, with items of like `size` where there is a choice.

    A row waits for the calls before it, and then for others to join it: as many as there were
    lately, so that who comes alone does not wait. Belongs to the event loop on which `submit` is
    first called.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Sequence[Answer]],
        limits: Limits,
        size: Callable[[Item], int] = lambda item: 0,
    ) -> None:
        self._run = run
        self._limits = limits
        self._size = size
        self._rows: list[_Row[Item, Answer]] = []  # by arrival
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._arrival = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._speed = 0.0  # rows a second
        self._computing = 0  # rows of the call that runs
        self._crowd = 0.0  # rows that were here at once lately, whether waiting or computed
        self._closed = False
        self.waited = 0.0
        """Seconds that the first row of the newest call waited for it."""

    async def submit(self, items: Sequence[Item]) -> list[Answer]:
        """The answers to `items`, in their order. Raises what `run` raised for any of them, and
        Overloaded.

        When the caller is cancelled, its rows that still wait are not computed.
        """
        loop = asyncio.get_running_loop()
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._work())
        if len(self._rows) >= self._limits.max_waiting:
            raise self._overloaded(f"{len(self._rows):,} rows are waiting already")
        now = loop.time()
        request: _Request[Answer] = _Request(loop.create_future(), len(items), now, now)
        self._rows.extend(_Row(item, place, request) for place, item in enumerate(items))
        self._crowd = max(self._crowd, len(self._rows) + self._computing)
        self._arrival.set()
        try:
            return await request.done
        except asyncio.CancelledError:
            self._rows = [row for row in self._rows if row.request is not request]
            raise

    @property
    def waiting(self) -> int:
        """Rows that wait for a call."""
        return len(self._rows)

    def close(self) -> None:
        """Let go of the event loop once no row waits; rows that come later are still answered. May
        be called from any thread."""
        self._closed = True
        if self._worker is not None:
            self._worker.get_loop().call_soon_threadsafe(self._arrival.set)

    async def _work(self) -> None:
        while self._rows or not self._closed:
            await self._gather()
            if batch := self._take():
                await self._answer(batch)

    async def _gather(self) -> None:
        """Until a batch is full, or nobody more is likely to come, or its first row has waited long
        enough."""
        loop = asyncio.get_running_loop()
        while not self._rows:
            if self._closed:
                return
            self._arrival.clear()
            await self._arrival.wait()
        end = self._rows[0].request.arrived + self._limits.wait_s
        expected = min(self._limits.max_rows, int(self._crowd))
        while len(self._rows) < expected and loop.time() < end:
            self._arrival.clear()
            try:
                async with asyncio.timeout_at(end):
                    await self._arrival.wait()
            except TimeoutError:
                return

    def _take(self) -> list[_Row[Item, Answer]]:
        """Rows of all requests in turn, of like size where there is a choice; by arrival."""
        now = asyncio.get_running_loop().time()
        latest = now - self._limits.timeout_s
        for row in self._rows:
            if row.request.arrived < latest:
                waited = f"no answer within {self._limits.timeout_s:g} s"
                row.request.fail(self._overloaded(waited))
        # Done already: its caller went away, it waited too long, or another of its rows failed.
        rows = [row for row in self._rows if not row.request.done.done()]
        waiting = [Waiting(id(r.request), r.request.since, self._size(r.item)) for r in rows]
        chosen = set(next_rows(waiting, self._limits.max_rows))
        self._rows = [row for place, row in enumerate(rows) if place not in chosen]
        taken = [rows[place] for place in sorted(chosen)]
        for row in taken:
            row.request.since = now
        return taken

    async def _answer(self, batch: list[_Row[Item, Answer]]) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        self.waited = began - min(row.request.arrived for row in batch)
        call = loop.run_in_executor(self._thread, self._run, [row.item for row in batch])
        self._computing = len(batch)
        await asyncio.wait([call])
        self._computing = 0
        self._crowd -= _SMOOTHING * max(0.0, self._crowd - len(batch) - len(self._rows))
        speed = len(batch) / max(loop.time() - began, 1e-6)
        self._speed += (_SMOOTHING if self._speed else 1.0) * (speed - self._speed)
        if error := call.exception():
            for row in batch:
                row.request.fail(error)
            return
        for row, answer in zip(batch, call.result(), strict=True):
            row.request.put(row.place, answer)

    def _overloaded(self, message: str) -> Overloaded:
        seconds = len(self._rows) / self._speed if self._speed else 1.0
        return Overloaded(message, max(1, math.ceil(seconds)))
