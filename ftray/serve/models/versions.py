"""The version router of one model at a replica: the current version, and one on trial beside it.

A new version loads while the old one answers. The new version becomes the current one once it has
reproduced its golden answers. A request that has begun ends at the version where it began.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace

from ftray.models.generation.sampling_params import Prompt, Sampling
from ftray.serve.interface import Answers, BadPrompt, Generation, Overloaded, Piece, TooLate
from ftray.serve.models.canary import Tally
from ftray.serve.models.live import Live
from ftray.serve.models.version_router import is_tried
from ftray.serve.ops.log import logger
from ftray.store.deployments.reports import TrialCounts
from ftray.store.deployments.routes import Trial
from ftray.tasks.base import Question

_log = logger(__name__)

_NO_FAULT = (Overloaded, BadPrompt, asyncio.CancelledError)
"""Exceptions that do not count as failures of the version that raises them. Their subclass TooLate
does count: a version that hangs never answers in time."""

CountShadow = Callable[[int | None, bool], None]
"""Called for each text that a shadow version answered, with that version and with whether its label
or generated text equals the current version's."""


@dataclass
class _OnTrial:
    trial: Trial
    model: Live
    tally: Tally = field(init=False)

    def __post_init__(self) -> None:
        self.tally = Tally(self.trial.id)

    @contextmanager
    def counted(self, tried: bool) -> Iterator[None]:
        """Count the outcome of the block, an answer of the version on trial (`tried`) or of the
        current one, and the seconds that the block takes."""
        began = time.perf_counter()
        try:
            yield
        except Exception as error:
            if isinstance(error, TooLate) or not isinstance(error, _NO_FAULT):
                self.tally.failed(tried)
            raise
        self.tally.answered(tried, time.perf_counter() - began)


class VersionRouter:
    """Routes requests to the current version or the one on trial. One thread at a time changes the
    versions; requests run on the event loop."""

    def __init__(self, current: Live, count_shadow: CountShadow) -> None:
        self.current = current
        self._count_shadow = count_shadow
        self._trial: _OnTrial | None = None
        self._shadows: set[asyncio.Task[None]] = set()
        self.over = threading.Event()
        """Set by `close`: no new request comes, and those that have begun are still answered."""

    async def answer(self, questions: Sequence[Question], top_k: int | None) -> Answers:
        """Answer all questions with one version. Raises what its model raises."""
        on_trial = self._trial
        if on_trial is None:
            return await self.current.answer(questions, top_k)
        chosen = is_tried(on_trial.trial)
        if on_trial.trial.shadow:
            answers = await self._judged(on_trial, False, questions, top_k)
            if chosen:
                self._keep(on_trial.model.version, self._shadow(on_trial, questions, answers))
            return answers
        if chosen:
            try:
                return await self._judged(on_trial, True, questions, top_k)
            except _NO_FAULT:
                raise
            except Exception:  # noqa: BLE001 - counted; the current version answers instead
                _log.warning("version %s failed on trial", on_trial.model.version, exc_info=True)
        return await self._judged(on_trial, False, questions, top_k)

    async def _judged(
        self, on_trial: _OnTrial, tried: bool, questions: Sequence[Question], top_k: int | None
    ) -> Answers:
        model = on_trial.model if tried else self.current
        with on_trial.counted(tried):
            return await model.answer(questions, top_k)

    def _keep(self, version: int | None, shadow: Coroutine[None, None, None]) -> None:
        """Run a version's shadow request in the background. No caller awaits it: a failure is
        logged."""

        async def silently() -> None:
            try:
                await shadow
            except (Overloaded, BadPrompt):
                return
            except Exception:  # noqa: BLE001 - counted, and nobody waits for it
                _log.warning("version %s failed in the shadow", version, exc_info=True)

        task = asyncio.get_running_loop().create_task(silently())
        self._shadows.add(task)  # the event loop holds only weak references to tasks
        task.add_done_callback(self._shadows.discard)

    async def _shadow(
        self, on_trial: _OnTrial, questions: Sequence[Question], told: Answers
    ) -> None:
        top_k = 1 if on_trial.model.info.kind.ranks else None
        shadow = await self._judged(on_trial, True, questions, top_k)
        for ours, theirs in zip(told.best, shadow.best, strict=True):
            self._count_shadow(on_trial.model.version, ours == theirs)

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        """Generate with one version. Where the version on trial fails before its first piece, the
        current version answers instead, unless the failure is Overloaded. Raises what the model of
        the answering version raises."""
        on_trial = self._trial
        if on_trial is None:
            return await self.current.generate(prompt, sampling)
        chosen, shadow = is_tried(on_trial.trial), on_trial.trial.shadow
        if chosen and not shadow:
            try:
                return await self._begun(on_trial, True, prompt, sampling)
            except (Overloaded, asyncio.CancelledError):
                raise
            except BadPrompt:
                pass  # the current version may accept the prompt
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
        """Generate with one version, and return once its first piece is there. The tally gets the
        time to the first piece, as answers differ in length."""
        model = on_trial.model if tried else self.current
        with on_trial.counted(tried):
            generation = await model.generate(prompt, sampling)
            first = await anext(generation.pieces)
        rest = _rest(on_trial.tally, tried, first, generation.pieces)
        return replace(generation, pieces=rest)

    async def _followed(
        self,
        on_trial: _OnTrial,
        prompt: Prompt,
        sampling: Sampling,
        pieces: AsyncGenerator[Piece, None],
    ) -> AsyncGenerator[Piece, None]:
        """Yield `pieces`; after the last one, send the same prompt to the shadow version."""
        told = []
        async with aclosing(pieces):
            async for piece in pieces:
                told.append(piece.text)
                yield piece
        text = self._shadow_text(on_trial, prompt, sampling, "".join(told))
        self._keep(on_trial.model.version, text)

    async def _shadow_text(
        self, on_trial: _OnTrial, prompt: Prompt, sampling: Sampling, told: str
    ) -> None:
        shadow = await self._begun(on_trial, True, prompt, sampling)
        text = "".join([piece.text async for piece in shadow.pieces])
        if not sampling.temperature:  # sampled texts may differ by chance
            self._count_shadow(on_trial.model.version, text == told)

    @property
    def trial(self) -> Trial | None:
        return None if self._trial is None else self._trial.trial

    @property
    def counts(self) -> TrialCounts | None:
        """Counts of the trial; None where no version is on trial."""
        return None if self._trial is None else self._trial.tally.counts

    def on_trial(self, version: int) -> Live | None:
        """Return the model on trial where it is this version, else None."""
        held = self._trial
        return held.model if held is not None and held.trial.stop.version == version else None

    def advance(self, model: Live) -> None:
        """Make `model` the current version and close the old one; `model` may be on trial."""
        old = self.current
        if self._trial is not None and self._trial.model is model:
            self.current, self._trial = model.settled(), None
        else:
            self.current = model
        old.close()

    def try_out(self, trial: Trial, model: Live) -> None:
        self.end_trial()
        self._trial = _OnTrial(trial, model.apart())
        if self.over.is_set():  # `close` was called while the model was loading
            self.end_trial()

    def end_trial(self) -> None:
        if self._trial is not None:
            held, self._trial = self._trial, None
            held.model.close()

    def close(self) -> None:
        self.over.set()
        self.end_trial()


async def _rest(
    tally: Tally, tried: bool, first: Piece, pieces: AsyncGenerator[Piece, None]
) -> AsyncGenerator[Piece, None]:
    """Yield `first` and the pieces after it. An exception there counts as a failure of the
    version."""
    async with aclosing(pieces):
        try:
            yield first
            async for piece in pieces:
                yield piece
        except (*_NO_FAULT, GeneratorExit):
            raise
        except Exception:
            tally.broke_off(tried)
            raise
