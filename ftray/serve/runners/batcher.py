"""Dynamic batching: rows of many requests share one forward call of the model."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

from ftray.cluster.device import is_out_of_memory
from ftray.models.inference.passes import PassCost, plan
from ftray.serve.interface import Overloaded
from ftray.serve.ops.log import logger
from ftray.serve.runners.stopwatch import Stopwatch
from ftray.serve.runners.turns import Waiting, next_rows

Item = TypeVar("Item")
Answer = TypeVar("Answer")
Result = TypeVar("Result")

_log = logger(__name__)
_SMOOTHING = 0.2  # weight of the newest call in the running averages of `_speed` and `_crowd`


@dataclass(frozen=True)
class Limits:
    """Limits of a batcher. max_rows: rows of one call; wait_s: longest wait of a row for others to
    join it; max_waiting: waiting rows from which on the batcher refuses more; hung_s: seconds after
    which a call counts as hung."""

    max_rows: int
    wait_s: float
    max_waiting: float = math.inf
    hung_s: float = math.inf


@dataclass
class _Request(Generic[Answer]):
    """Rows that came together; their answers go back together. missing: number of rows."""

    done: asyncio.Future[list[Answer]]
    missing: int
    arrived: float
    since: float
    """Time of the request's last turn, or of its arrival."""
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
    """Calls `run` in a thread of its own. The batcher splits a batch into calls with items of
    similar `size` where the saved padding outweighs the cost of one more call. It repeats a failed
    call with half of the rows at a time, so that only requests that fail alone get the error.

    A row waits for the calls before it, and then for other rows to join it. The batcher expects as
    many rows as were present lately, so that a lone request does not wait. A row never waits longer
    for others than the fixed cost of one call. A batcher belongs to the event loop on which
    `submit` is first called.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Sequence[Answer]],
        limits: Limits,
        size: Callable[[Item], int] = lambda item: 0,
        cost: Callable[[Sequence[Item]], PassCost] = lambda items: PassCost(),
    ) -> None:
        """cost: returns the fixed cost of a call with these items, whatever their sizes; its tokens
        are in the unit of `size`."""
        self._run = run
        self._limits = limits
        self._size = size
        self._cost = cost
        self._rows: list[_Row[Item, Answer]] = []  # by arrival
        self._calls: list[list[_Row[Item, Answer]]] = []  # calls of the batch, short rows first
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._arrival = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._speed = 0.0  # rows a second, a running average
        self._computing = 0  # rows of the call in progress
        self._crowd = 0.0  # recent peak of the rows present at once, waiting or computed; decays
        self._closed = False
        self.watch = Stopwatch(limits.hung_s)
        """Stopwatch of the model's thread."""
        self.waited = 0.0
        """Seconds that the oldest row of the newest call waited for that call."""

    async def submit(self, items: Sequence[Item]) -> list[Answer]:
        """Return the answers to `items`, in their order. Raises Overloaded, and what `run` raises
        in a call with items of this request alone.

        When the caller is cancelled, its rows that still wait are not computed.
        """
        loop = asyncio.get_running_loop()
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._work())
        if self.waiting >= self._limits.max_waiting:
            message = f"{self.waiting:,} rows are waiting already"
            raise Overloaded(message, self.retry_after_s)
        now = loop.time()
        request: _Request[Answer] = _Request(loop.create_future(), len(items), now, now)
        self._rows.extend(_Row(item, place, request) for place, item in enumerate(items))
        self._crowd = max(self._crowd, self.in_hand)
        self._arrival.set()
        try:
            return await request.done
        except asyncio.CancelledError:
            self._rows = [row for row in self._rows if row.request is not request]
            raise

    async def between(self, work: Callable[[], None]) -> None:
        """Do `work` in the model's thread, between two calls. Raises what `work` raises."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._timed, work)

    @property
    def waiting(self) -> int:
        """Rows that wait for a call."""
        return len(self._rows) + sum(map(len, self._calls))

    @property
    def in_hand(self) -> int:
        """Rows that wait or are computed."""
        return self.waiting + self._computing

    @property
    def retry_after_s(self) -> int:
        """Estimated seconds until the rows that wait now are answered."""
        return max(1, math.ceil(self.waiting / self._speed if self._speed else 1.0))

    def close(self) -> None:
        """End the worker task once no row waits. A later `submit` starts another one, so that later
        rows are still answered. May be called from any thread."""
        self._closed = True
        if self._worker is not None:
            self._worker.get_loop().call_soon_threadsafe(self._arrival.set)

    async def _work(self) -> None:
        while self._rows or not self._closed:
            await self._gather()
            self._calls = self._take()
            # No local variable holds the rows: it would keep them and their models in memory until
            # the next rows come.
            while self._calls:
                await self._answer(self._calls.pop(0))

    async def _gather(self) -> None:
        """Wait until a batch is full, or no further row is expected, or the batch's first row has
        waited long enough."""
        loop = asyncio.get_running_loop()
        while not self._rows:
            if self._closed:
                return
            self._arrival.clear()
            await self._arrival.wait()
        wait_s = min(self._limits.wait_s, self._cost([self._rows[0].item]).seconds)
        end = self._rows[0].request.arrived + wait_s
        expected = min(self._limits.max_rows, int(self._crowd))
        while len(self._rows) < expected and loop.time() < end:
            self._arrival.clear()
            try:
                async with asyncio.timeout_at(end):
                    await self._arrival.wait()
            except TimeoutError:
                return

    def _take(self) -> list[list[_Row[Item, Answer]]]:
        """Take a batch of rows, the oldest requests first, and split it into calls by size."""
        now = asyncio.get_running_loop().time()
        # Drop the rows of a request whose caller went away, or of which another row failed.
        rows = [row for row in self._rows if not row.request.done.done()]
        waiting = [Waiting(id(r.request), r.request.since, self._size(r.item)) for r in rows]
        due = next_rows(waiting, self._limits.max_rows)
        chosen = set(due)
        self._rows = [row for place, row in enumerate(rows) if place not in chosen]
        for place in due:
            rows[place].request.since = now
        if not due:
            return []
        cost = self._cost([rows[place].item for place in due])
        calls = plan([waiting[place].size for place in due], len(due), cost)
        return [[rows[due[index]] for index in sorted(call)] for call in calls]

    async def _answer(self, batch: list[_Row[Item, Answer]]) -> None:
        parts = [batch]
        while parts:
            # Drop the rows of a request of which another row failed, or whose caller went away.
            part = [row for row in parts.pop() if not row.request.done.done()]
            error = await self._call(part) if part else None
            if error is None:
                continue
            if len(part) > 1 and (is_out_of_memory(error) or not _of_one_request(part)):
                error.with_traceback(None)  # the traceback keeps the tensors of the call in memory
                _log.warning("a call with %d rows is made by halves: %r", len(part), error)
                middle = len(part) // 2
                parts += [part[middle:], part[:middle]]
                continue
            for row in part:
                row.request.fail(error)

    async def _call(self, rows: list[_Row[Item, Answer]]) -> BaseException | None:
        """Run one call and give the answers to their requests. Return the exception of a failed
        call, else None."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        self.waited = began - min(row.request.arrived for row in rows)
        items = [row.item for row in rows]
        call = loop.run_in_executor(self._thread, self._timed, partial(self._run, items))
        self._computing = len(rows)
        await asyncio.wait([call])
        self._computing = 0
        self._crowd -= _SMOOTHING * max(0.0, self._crowd - len(rows) - self.waiting)
        speed = len(rows) / max(loop.time() - began, 1e-6)
        self._speed += (_SMOOTHING if self._speed else 1.0) * (speed - self._speed)
        if (error := call.exception()) is None:
            for row, answer in zip(rows, call.result(), strict=True):
                row.request.put(row.place, answer)
        return error

    def _timed(self, work: Callable[[], Result]) -> Result:
        with self.watch:
            return work()


def _of_one_request(rows: Sequence[_Row[Item, Answer]]) -> bool:
    return all(row.request is rows[0].request for row in rows)
