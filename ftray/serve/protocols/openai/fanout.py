"""Generates all answers (choices) to one request at once. A task of its own generates each choice,
so that the choices share decoding steps. All choices end together when one fails or the request's
handler closes them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Self

from ftray.models.generation.sampling_params import Prompt, Sampling
from ftray.serve.interface import Backend, Generation, Piece

SILENCE_S = 10.0
"""Seconds without a step after which the client of a stream gets a sign that the stream goes on."""
AT_ONCE = 32
"""Choices of a request that generate at once. The other choices wait here: the time limit on
waiting requests does not count for them."""


@dataclass(frozen=True)
class Step:
    """The choice with this index grew by a piece."""

    index: int
    generation: Generation
    piece: Piece


class Choices:
    """The choices of a request: an iterator over their steps, in the order in which they come.
    Raises what any choice raises.

    A caller that stops before the end must call `close`.
    """

    def __init__(self, backend: Backend, asked: Sequence[tuple[Prompt, Sampling]]) -> None:
        self._backend = backend
        self._places = asyncio.Semaphore(AT_ONCE)
        self._events: asyncio.Queue[Step | BaseException | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._draw(i, *one)) for i, one in enumerate(asked)]
        self._ahead: deque[Step] = deque()
        self._running = len(self._tasks)
        for task in self._tasks:
            task.add_done_callback(self._ended)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Step:
        return self._ahead.popleft() if self._ahead else await self._next()

    async def begin(self) -> Generation:
        """Wait until each choice has taken a step; the iterator still yields these steps. Return
        the generation of the step that came first."""
        begun: set[int] = set()
        while len(begun) < len(self._tasks):
            self._ahead.append(await self._next())
            begun.add(self._ahead[-1].index)
        return self._ahead[0].generation

    async def begin_soon(self) -> Generation | None:
        """Do as `begin`, but wait for SILENCE_S at most; return None where no step came in that
        time."""
        try:
            async with asyncio.timeout(SILENCE_S) as limit:
                return await self.begin()
        except TimeoutError:
            if not limit.expired():
                raise
            return self._ahead[0].generation if self._ahead else None

    async def with_silences(self) -> AsyncIterator[Step | None]:
        """Yield the steps, and None each time that no step comes for SILENCE_S."""
        while True:
            step = None
            try:
                async with asyncio.timeout(SILENCE_S) as limit:
                    step = await anext(self)
            except StopAsyncIteration:
                return
            except TimeoutError:
                if not limit.expired():
                    raise
            yield step

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _next(self) -> Step:
        while self._running:
            event = await self._events.get()
            if isinstance(event, Step):
                return event
            if event is not None:
                raise event
            self._running -= 1
        raise StopAsyncIteration

    async def _draw(self, index: int, prompt: Prompt, sampling: Sampling) -> None:
        async with self._places:
            generation = await self._backend.generate(prompt, sampling)
            async with aclosing(generation.pieces) as pieces:
                async for piece in pieces:
                    self._events.put_nowait(Step(index, generation, piece))

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._events.put_nowait(None if task.cancelled() else task.exception())
