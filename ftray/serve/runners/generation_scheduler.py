"""Schedules the generation of one model: a thread decodes the answers of many requests in shared
steps."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from ftray.models.generation.decoder import Decoder
from ftray.models.generation.detokenizer import TextStream
from ftray.models.generation.generator import Generator
from ftray.models.generation.sampler import Answer
from ftray.models.generation.sampling_params import Sampling
from ftray.serve.interface import Overloaded, Piece, TooLate
from ftray.serve.ops.log import logger
from ftray.serve.runners.stopwatch import Stopwatch
from ftray.spec.sections.serving import Batching

_log = logger(__name__)
_SMOOTHING = 0.2  # weight of the newest answer in the average time of an answer


class NoNumbers(RuntimeError):
    """The model's logits for an answer were not finite."""


@dataclass(frozen=True)
class Usage:
    """Token counts of an ended answer. first_s: seconds from the request's arrival to the answer's
    first token."""

    prompt_tokens: int
    tokens: int
    first_s: float


@dataclass(eq=False)
class GeneratedSequence:
    """One answer in progress. loop: the event loop of the caller that awaits the pieces."""

    answer: Answer
    text: TextStream
    loop: asyncio.AbstractEventLoop
    pieces: asyncio.Queue[Piece | Exception] = field(default_factory=asyncio.Queue)
    arrived: float = field(default_factory=time.perf_counter)
    first_s: float = 0.0

    @property
    def age(self) -> float:
        return time.perf_counter() - self.arrived

    def advance(self) -> None:
        """Detokenize the newest token, and queue a piece with the text that no later token can
        change."""
        answer = self.answer
        if answer.finish == "failed":
            self.tell(answer.error or NoNumbers("the model's logits are not finite"))
            return
        self.first_s = self.first_s or self.age
        text = self.text.feed(answer.tokens[-1])
        if self.text.stopped:
            answer.finish = "stop"
        if answer.finish is not None:
            text += self.text.finish()
        if text or answer.finish is not None:
            self.tell(Piece(text, len(answer.tokens), answer.finish))

    def tell(self, piece: Piece | Exception) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.pieces.put_nowait, piece)

    def cancel(self) -> None:
        """End the answer, as its caller is gone: the decoder computes no further step for it."""
        self.answer.finish = self.answer.finish or "stop"


class Talks:
    """The scheduler of one model. Its thread lives while requests or errands are left."""

    def __init__(
        self,
        generator: Generator,
        batching: Batching,
        cache_tokens: int,
        count: Callable[[Usage], None],
    ) -> None:
        """cache_tokens: most tokens of all prompts and answers in progress at once; count: called
        with the usage of each ended answer that had a first token."""
        self._generator, self._batching, self._count = generator, batching, count
        self._cache_tokens = cache_tokens
        self._decoder = self._new_decoder()
        self._waiting: deque[GeneratedSequence] = deque()
        self._talking: dict[Answer, GeneratedSequence] = {}
        self._errands: deque[tuple[Callable[[], None], Future[None]]] = deque()
        """Work to do between two decoding steps, each with the future that its caller awaits."""
        self._lock = threading.Lock()
        self.watch = Stopwatch(batching.hung_seconds)
        """Stopwatch of the thread."""
        self._thread: threading.Thread | None = None
        self._seconds = 1.0  # running average of the time that an answer takes

    @property
    def fault(self) -> str:
        """Message that the thread hangs; empty while it does not."""
        return self.watch.fault

    @property
    def waiting(self) -> int:
        """Number of requests that have not begun."""
        return len(self._waiting)

    @property
    def utilization(self) -> float:
        """Demand of the requests in hand, as a share of the scarcer resource: places in the batch
        or tokens in the KV cache. Above 1, some requests wait."""
        with self._lock:
            wanted = [talk.answer for talk in (*self._waiting, *self._talking.values())]
        tokens = sum(map(self._most_tokens, wanted))
        return max(len(wanted) / self._batching.max_size, tokens / self._cache_tokens)

    async def pieces(
        self, prompt: Sequence[int], sampling: Sampling
    ) -> AsyncGenerator[Piece, None]:
        """Yield the answer to a prompt of token ids, piece by piece. A caller that closes this
        generator early ends the answer.

        Raises Overloaded in place of the first piece, where too many requests wait or this request
        has waited for too long.
        """
        talk = self._begin(Answer(prompt, sampling))
        late = talk.loop.call_later(self._batching.timeout_seconds, self._give_up, talk)
        try:
            while True:
                piece = await talk.pieces.get()
                if isinstance(piece, Exception):
                    raise piece
                yield piece
                if piece.finish is not None:
                    return
        finally:
            late.cancel()
            talk.cancel()

    async def between(self, work: Callable[[], None]) -> None:
        """Do `work` in the thread, between two decoding steps. Raises what `work` raises."""
        done: Future[None] = Future()
        with self._lock:
            self._errands.append((work, done))
            self._wake()
        await asyncio.wrap_future(done)

    def check_room(self) -> None:
        """Raises Overloaded where too many requests wait already."""
        if self.waiting >= self._batching.max_waiting:
            message = f"{self.waiting:,} requests are waiting already"
            raise Overloaded(message, self._retry_after_s)

    def _begin(self, answer: Answer) -> GeneratedSequence:
        self.check_room()
        text = TextStream(self._generator.tokenizer, answer.sampling.stop)
        talk = GeneratedSequence(answer, text, asyncio.get_running_loop())
        with self._lock:
            self._waiting.append(talk)
            self._wake()
        return talk

    def _wake(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._work, name="generate", daemon=True)
            thread.start()
            self._thread = thread

    def _give_up(self, talk: GeneratedSequence) -> None:
        """Refuse a request that has not begun."""
        with self._lock:
            if talk not in self._waiting:
                return
            self._waiting.remove(talk)
        message = f"not begun within {self._batching.timeout_seconds:g} s"
        talk.pieces.put_nowait(TooLate(message, self._retry_after_s))

    def _work(self) -> None:
        while True:
            with self._lock:
                errands, self._errands = self._errands, deque()
                newcomers = self._admitted()
                if not newcomers and not self._talking and not errands:
                    self._thread = None
                    return
                self._talking.update((talk.answer, talk) for talk in newcomers)
            with self.watch:
                for work, done in errands:
                    _do(work, done)
            if not self._talking:
                continue
            try:
                with self.watch:
                    self._step([talk.answer for talk in newcomers])
            except Exception as error:  # noqa: BLE001 - logged, and raised in all callers
                _log.exception("%s failed to generate", self._generator.info.name)
                self._abandon(error)

    def _step(self, newcomers: Sequence[Answer]) -> None:
        with self._generator.inference():
            advanced = self._decoder.step(newcomers)
        for answer in advanced:
            self._advance(self._talking[answer])
        for answer, talk in list(self._talking.items()):
            if answer.finish is not None:
                del self._talking[answer]
                self._note(talk)

    def _advance(self, talk: GeneratedSequence) -> None:
        try:
            talk.advance()
            error = talk.answer.error
        except Exception as its:  # noqa: BLE001 - logged, and raised in the caller
            error = its
            talk.tell(error)
            talk.cancel()
        if error is not None:
            _log.error("%s failed to generate", self._generator.info.name, exc_info=error)

    def _note(self, talk: GeneratedSequence) -> None:
        """Count an answer that has ended, unless it ended before its first token."""
        if talk.first_s:
            self._seconds += _SMOOTHING * (talk.age - self._seconds)
            answer = talk.answer
            self._count(Usage(len(answer.prompt), len(answer.tokens), talk.first_s))

    def _admitted(self) -> list[GeneratedSequence]:
        """Take from the queue, in order of arrival, the requests that now have a place in the batch
        and room for their tokens. Drop requests that their callers have cancelled, also where no
        place is free."""
        self._waiting = deque(talk for talk in self._waiting if talk.answer.finish is None)
        admitted: list[GeneratedSequence] = []
        places = self._batching.max_size - len(self._talking)
        room = self._cache_tokens - sum(map(self._most_tokens, self._talking))
        while self._waiting and len(admitted) < places:
            room -= self._most_tokens(self._waiting[0].answer)
            if room < 0:
                break
            admitted.append(self._waiting.popleft())
        return admitted

    def _most_tokens(self, answer: Answer) -> int:
        """Most tokens that the prompt and the whole answer may come to."""
        context = self._generator.context
        return min(context, len(answer.prompt) + (answer.sampling.max_tokens or context))

    def _abandon(self, error: Exception) -> None:
        """Fail all answers in progress. Later answers get a new decoder, as the state of the old
        one is unknown."""
        for talk in self._talking.values():
            talk.tell(error)
        self._talking.clear()
        self._decoder = self._new_decoder()

    def _new_decoder(self) -> Decoder:
        return self._generator.decoder(self._cache_tokens // 2)

    @property
    def _retry_after_s(self) -> int:
        rounds = len(self._waiting) / self._batching.max_size
        return max(1, math.ceil(rounds * self._seconds))


def _do(work: Callable[[], None], done: Future[None]) -> None:
    """Run `work` and set `done` to its outcome, unless the caller has cancelled `done`."""
    if not done.set_running_or_notify_cancel():
        return
    try:
        work()
    except Exception as error:  # noqa: BLE001 - raised in the caller, which awaits `done`
        done.set_exception(error)
    else:
        done.set_result(None)
