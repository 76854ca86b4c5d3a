"""The versions that a replica holds: the current one, and one on trial beside it.

A change of the route loads the new version while the old one answers; the two change places once
the new one has given its golden answers. Requests that have begun end where they began.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from ftray.errors import FtrayError
from ftray.models.sampling import Prompt, Sampling
from ftray.serve.backend import Answers, BadPrompt, Generation, Piece
from ftray.serve.batcher import Overloaded
from ftray.serve.judge import Judge
from ftray.serve.loader import Live
from ftray.serve.log import logger
from ftray.store.routes import Route, Stop, Trial

_log = logger(__name__)

_NO_FAULT = (Overloaded, BadPrompt, asyncio.CancelledError)
"""Of a version that raises them."""

Load = Callable[[Stop], Live]
"""Raises ModelError when the version does not prove itself."""


@dataclass
class _OnTrial:
    trial: Trial
    model: Live
    judge: Judge = field(default_factory=Judge)


class Shelf:
    """Follows a route: `update` is called by one thread at a time, `answer` on the event loop."""

    def __init__(
        self,
        current: Live,
        load: Load,
        end_trial: Callable[[Trial, str], None],
        count_shadow: Callable[[int | None, bool], None],
    ) -> None:
        """end_trial: told of a trial that ends badly, and why; count_shadow: told of each text
        that a version in the shadow answered, and whether its label was the current version's."""
        self.current = current
        self._load = load
        self._end_trial = end_trial
        self._count_shadow = count_shadow
        self._trial: _OnTrial | None = None
        self._refused: set[Stop | Trial] = set()  # not to be loaded again and again
        self._shadows: set[asyncio.Task[None]] = set()
        self.over = threading.Event()
        """Set once nobody asks any more but those who have begun."""

    async def answer(self, texts: Sequence[str], top_k: int | None) -> Answers:
        """By one version. Raises what its model raises."""
        on_trial = self._trial
        if on_trial is None:
            return await self.current.answer(texts, top_k)
        chosen = random.random() < on_trial.trial.share
        if on_trial.trial.shadow:
            answers = await self._judged(on_trial, False, texts, top_k)
            if chosen:
                self._keep(self._shadow(on_trial, texts, answers))
            return answers
        if chosen:
            try:
                return await self._judged(on_trial, True, texts, top_k)
            except _NO_FAULT:
                raise
            except Exception:  # noqa: BLE001 - counted; a trial costs nobody an answer
                _log.warning("version %s failed on trial", on_trial.model.version, exc_info=True)
        return await self._judged(on_trial, False, texts, top_k)

    async def _judged(
        self, on_trial: _OnTrial, tried: bool, texts: Sequence[str], top_k: int | None
    ) -> Answers:
        model = on_trial.model if tried else self.current
        began = time.perf_counter()
        try:
            answers = await model.answer(texts, top_k)
        except _NO_FAULT:
            raise
        except Exception:
            on_trial.judge.failed(tried)
            raise
        on_trial.judge.answered(tried, time.perf_counter() - began)
        return answers

    def _keep(self, shadow: Coroutine[None, None, None]) -> None:
        """Let it run, although nobody waits for it."""
        task = asyncio.get_running_loop().create_task(shadow)
        self._shadows.add(task)  # the loop itself keeps no task alive
        task.add_done_callback(self._shadows.discard)

    async def _shadow(self, on_trial: _OnTrial, texts: Sequence[str], told: Answers) -> None:
        try:
            labels = on_trial.model.info.labels
            shadow = await self._judged(on_trial, True, texts, 1 if labels else None)
        except (Overloaded, BadPrompt):
            return
        except Exception:  # noqa: BLE001 - counted, and nobody waits for it
            _log.warning("version %s failed in the shadow", on_trial.model.version, exc_info=True)
            return
        for ours, theirs in zip(told.best, shadow.best, strict=True):
            self._count_shadow(on_trial.model.version, ours == theirs)

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        """By one version; what it fails with before its first piece costs a trial nobody's answer.
        Raises what its model raises."""
        on_trial = self._trial
        if on_trial is None:
            return await self.current.generate(prompt, sampling)
        chosen, shadow = random.random() < on_trial.trial.share, on_trial.trial.shadow
        if chosen and not shadow:
            try:
                return await self._begun(on_trial, True, prompt, sampling)
            except (Overloaded, asyncio.CancelledError):
                raise
            except BadPrompt:
                pass  # the current version may take it
            except Exception:  # noqa: BLE001 - counted
                _log.warning("version %s failed on trial", on_trial.model.version, exc_info=True)
        generation = await self._begun(on_trial, False, prompt, sampling)
        if not chosen or not shadow:
            return generation
        followed = self._followed(on_trial, prompt, sampling, generation.pieces)
        return replace(generation, pieces=followed)

    async def _begun(
        self, on_trial: _OnTrial, tried: bool, prompt: Prompt, sampling: Sampling
    ) -> Generation:
        """Once its first piece is there; the time to it counts, as answers differ in length."""
        model, judge = on_trial.model if tried else self.current, on_trial.judge
        began = time.perf_counter()
        try:
            generation = await model.generate(prompt, sampling)
            first = await anext(generation.pieces)
        except _NO_FAULT:
            raise
        except Exception:
            judge.failed(tried)
            raise
        judge.answered(tried, time.perf_counter() - began)
        return replace(generation, pieces=_rest(judge, tried, first, generation.pieces))

    async def _followed(
        self,
        on_trial: _OnTrial,
        prompt: Prompt,
        sampling: Sampling,
        pieces: AsyncGenerator[Piece, None],
    ) -> AsyncGenerator[Piece, None]:
        """`pieces`, and when they are over the version in the shadow is asked the same."""
        told = []
        async with aclosing(pieces):
            async for piece in pieces:
                told.append(piece.text)
                yield piece
        self._keep(self._shadow_text(on_trial, prompt, sampling, "".join(told)))

    async def _shadow_text(
        self, on_trial: _OnTrial, prompt: Prompt, sampling: Sampling, told: str
    ) -> None:
        try:
            shadow = await self._begun(on_trial, True, prompt, sampling)
            text = "".join([piece.text async for piece in shadow.pieces])
        except (Overloaded, BadPrompt):
            return
        except Exception:  # noqa: BLE001 - counted, and nobody waits for it
            _log.warning("version %s failed in the shadow", on_trial.model.version, exc_info=True)
            return
        if not sampling.temperature:  # what is drawn by chance need not be the same
            self._count_shadow(on_trial.model.version, text == told)

    def close(self) -> None:
        self.over.set()
        self._try(None)

    def update(self, route: Route) -> None:
        """Hold what `route` says, as far as it proves itself."""
        self._refused = {one for one in self._refused if one in (route.current, route.trial)}
        self._judge()
        if route.current.version != self.current.version and route.current not in self._refused:
            self._advance(route.current)
        known = None if self._trial is None else self._trial.trial
        if route.trial != known and route.trial not in self._refused:
            self._try(route.trial)

    def _advance(self, stop: Stop) -> None:
        on_trial, old = self._trial, self.current
        if on_trial is not None and on_trial.trial.stop == stop:
            self.current, self._trial = on_trial.model.settled(), None
        else:
            try:
                self.current = self._load(stop)
            except FtrayError as error:
                self._refused.add(stop)
                _log.error("version %s goes on: %s", old.version, error)
                return
        old.close()
        _log.warning("version %s answers in place of %s", self.current.version, old.version)

    def _try(self, trial: Trial | None) -> None:
        if self._trial is not None:
            self._trial.model.close()
            self._trial = None
        if trial is None or trial.stop.version == self.current.version:
            return
        try:
            self._trial = _OnTrial(trial, self._load(trial.stop).apart())
        except FtrayError as error:
            self._fail(trial, str(error))
        if self.over.is_set():  # since it began to load
            self._try(None)

    def _judge(self) -> None:
        if self._trial is not None and (why := self._trial.judge.verdict()):
            trial = self._trial.trial
            self._try(None)
            self._fail(trial, why)

    def _fail(self, trial: Trial, why: str) -> None:
        self._refused.add(trial)
        _log.error("the trial of version %s ends: %s", trial.stop.version, why)
        self._end_trial(trial, why)


async def _rest(
    judge: Judge, tried: bool, first: Piece, pieces: AsyncGenerator[Piece, None]
) -> AsyncGenerator[Piece, None]:
    """`first` and the pieces behind it; what fails there is a version's failure too."""
    async with aclosing(pieces):
        try:
            yield first
            async for piece in pieces:
                yield piece
        except (*_NO_FAULT, GeneratorExit):
            raise
        except Exception:
            judge.failed(tried)
            raise
