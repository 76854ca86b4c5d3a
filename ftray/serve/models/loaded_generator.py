"""One loaded version of a model that generates text."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from ftray.errors import ModelError
from ftray.models.generation.generator import Generator
from ftray.models.generation.sampling_params import Prompt, Sampling
from ftray.serve.interface import (
    GENERATED,
    Answers,
    BadPrompt,
    Generation,
    require_contents,
    require_sound,
)
from ftray.serve.models.live import Live
from ftray.serve.ops.metrics import Metrics
from ftray.serve.runners.generation_limits import Capacity
from ftray.serve.runners.generation_scheduler import Talks, Usage
from ftray.serve.schemas import MAX_READ
from ftray.spec.sections.serving import Batching


@dataclass(frozen=True, eq=False)
class LiveGenerator(Live[Generator]):
    """A version that writes its answers in a thread of its own."""

    batching: Batching
    capacity: Capacity
    talks: Talks = field(init=False)

    def __post_init__(self) -> None:
        count = partial(_count, self.metrics, self.name, self.version)
        talks = Talks(self.loaded, self.batching, self.capacity.cache_tokens, count)
        # A frozen dataclass can set a field computed from its other fields in no other way.
        object.__setattr__(self, "talks", talks)

    @property
    def runner(self) -> Talks:
        return self.talks

    async def answer(self, texts: Sequence[str], top_k: int | None) -> Answers:
        """Return the greedy continuation of each text. Raises BadPrompt, Overloaded,
        Unavailable."""
        if top_k is not None:
            raise BadPrompt("top_k", "the model generates text: it has no labels", "no_labels")
        require_contents([not self.loaded.task.is_blank(text) for text in texts])
        # At most max_size texts of this request enter the scheduler at once. The others wait at
        # this semaphore, without a time limit.
        places = asyncio.Semaphore(self.batching.max_size)
        tasks = [asyncio.ensure_future(self._text(text, places)) for text in texts]
        try:
            written = await asyncio.gather(*tasks)
        finally:  # the other texts need no answer where one failed or the client went away
            for task in tasks:
                task.cancel()
        outputs = [{GENERATED: text} for text in written]
        return Answers(self.name, self.version, (), outputs, written)

    async def _text(self, prompt: str, places: asyncio.Semaphore) -> str:
        async with places:
            generation = await self.generate(prompt, Sampling())
            return "".join([piece.text async for piece in generation.pieces])

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        """Start an answer; its decoding steps are shared with other requests. Raises BadPrompt,
        Overloaded, Unavailable."""
        require_sound(self)
        # Tokenize off the event loop: there, a long prompt would hold up all other requests.
        ids = await asyncio.to_thread(self._ids, prompt)
        room = min(self.capacity.max_tokens, self.capacity.context - len(ids))
        most = min(sampling.max_tokens or room, room)
        self.talks.check_room()
        pieces = self.talks.pieces(ids, replace(sampling, max_tokens=most))
        return Generation(self.name, self.version, len(ids), pieces)

    def _ids(self, prompt: Prompt) -> list[int]:
        if len(prompt if isinstance(prompt, str) else json.dumps(prompt)) > MAX_READ:
            limit = f"of one prompt {MAX_READ:,} characters are read at most"
            raise BadPrompt("prompt", limit, "context_length_exceeded")
        try:
            ids = self.loaded.prompt_ids(prompt)
        except ModelError as error:
            problem = error.problems[0]
            raise BadPrompt("prompt", f"{problem.problem}; {problem.fix}", "no_chat") from None
        if self._is_empty(prompt, ids):
            require_contents([False])
        vocabulary = self.loaded.model.get_input_embeddings().num_embeddings
        if unknown := next((token for token in ids if token >= vocabulary), None):
            known = f"the model knows {vocabulary:,}"
            raise BadPrompt("prompt", f"no token {unknown}: {known}", "invalid_token")
        if len(ids) >= self.capacity.context:
            limit = f"the context has room for {self.capacity.context:,} with the answer"
            message = f"{len(ids):,} tokens: {limit} (serve.max_context)"
            raise BadPrompt("prompt", message, "context_length_exceeded")
        return ids

    def _is_empty(self, prompt: Prompt, ids: Sequence[int]) -> bool:
        if isinstance(prompt, str):
            return self.loaded.task.is_blank(prompt) or not self.loaded.has_tokens(ids)
        if prompt and isinstance(prompt[0], int):
            return False
        return not prompt or self.loaded.task.is_blank(json.dumps(prompt))


def _count(metrics: Metrics, name: str, version: int | None, told: Usage) -> None:
    metrics.count_answer(name, version, told.prompt_tokens, told.tokens, told.first_s)
