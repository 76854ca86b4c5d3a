"""The thread in which a model generates: the answers of many requests share its steps."""

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
from ftray.serve.interface import Piece
from ftray.serve.ops.log import logger
from ftray.serve.runners.batcher import Overloaded, TooLate
from ftray.serve.runners.stopwatch import Stopwatch
from ftray.spec.sections.serving import Batching

_log = logger(__name__)
_SMOOTHING = 0.2  # of the newest answer in the time that one takes


class NoNumbers(RuntimeError):
    """The model's logits for an answer were not finite."""


@dataclass(frozen=True)
class Usage:
    """What an answer came to. first_s: seconds from its request's arrival to its first token."""

    prompt_tokens: int
    tokens: int
    first_s: float


@dataclass(eq=False)
class GeneratedSequence:
    """One answer on its way, for whoever waits on `loop`."""

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
        """Tell what the newest token adds to the text, as far as that is certain by now."""
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
        """Nobody waits for it any more: it costs no further step."""
        self.answer.finish = self.answer.finish or "stop"


class Talks:
    """Of one model. Its thread lives while there is something to answer."""

    def __init__(
        self,
        generator: Generator,
        batching: Batching,
        cache_tokens: int,
        count: Callable[[Usage], None],
    ) -> None:
        """cache_tokens: of prompts and answers that go on at once; count: told of each answer that
        began."""
        self._generator, self._batching, self._count = generator, batching, count
        self._cache_tokens = cache_tokens
        self._decoder = self._new_decoder()
        self._waiting: deque[GeneratedSequence] = deque()
        self._talking: dict[Answer, GeneratedSequence] = {}
        self._errands: deque[tuple[Callable[[], None], Future[None]]] = deque()
        """What is to be done between two steps."""
        self._lock = threading.Lock()
        self.watch = Stopwatch(batching.hung_seconds)
        """Of the thread."""
        self._thread: threading.Thread | None = None
        self._seconds = 1.0  # that an answer takes, lately

    @property
    def waiting(self) -> int:
        """Requests that have not begun."""
        return len(self._waiting)

    @property
    def utilization(self) -> float:
        """Share of the scarcer of two resources, places and room for tokens, that the requests in
        hand ask for; above 1 some wait."""
        with self._lock:
            wanted = [talk.answer for talk in (*self._waiting, *self._talking.values())]
        tokens = sum(map(self._most_tokens, wanted))
        return max(len(wanted) / self._batching.max_size, tokens / self._cache_tokens)

    async def pieces(
        self, prompt: Sequence[int], sampling: Sampling
    ) -> AsyncGenerator[Piece, None]:
        """The answer to a prompt of token ids. Who closes this early ends it.

        Raises Overloaded: at the first piece, where it had to wait for too long.
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
        """Do `work` in the thread, between two steps. Raises what it raises."""
        done: Future[None] = Future()
        with self._lock:
            self._errands.append((work, done))
            self._wake()
        await asyncio.wrap_future(done)

    def check_room(self) -> None:
        """Raises Overloaded where too many wait already."""
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
            except Exception as error:  # noqa: BLE001 - told to all who wait, and logged
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
        except Exception as its:  # noqa: BLE001 - told, and logged
            error = its
            talk.tell(error)
            talk.cancel()
        if error is not None:
            _log.error("%s failed to generate", self._generator.info.name, exc_info=error)

    def _note(self, talk: GeneratedSequence) -> None:
        """Count an answer that has ended, unless it did so before it had begun."""
        if talk.first_s:
            self._seconds += _SMOOTHING * (talk.age - self._seconds)
            answer = talk.answer
            self._count(Usage(len(answer.prompt), len(answer.tokens), talk.first_s))

    def _admitted(self) -> list[GeneratedSequence]:
        """Those that wait and have a place and room for their tokens now, by arrival. Who has gone
        is taken out, also where there is no place."""
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
        """Of the prompt and the whole answer."""
        context = self._generator.context
        return min(context, len(answer.prompt) + (answer.sampling.max_tokens or context))

    def _abandon(self, error: Exception) -> None:
        """Nobody can say what the decoder still holds: the next ones get a new one."""
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
    """Run `work` and set `done` to its outcome, unless its waiter has gone."""
    if not done.set_running_or_notify_cancel():
        return
    try:
        work()
    except Exception as error:  # noqa: BLE001 - raised where it is waited for
        done.set_exception(error)
    else:
        done.set_result(None)
