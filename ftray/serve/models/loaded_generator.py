"""One version of a model that generates."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from ftray.errors import ModelError
from ftray.models.artifact.manifest import ModelInfo
from ftray.models.generation.generator import Generator
from ftray.models.generation.sampling_params import Prompt, Sampling
from ftray.serve.interface import (
    GENERATED,
    Answers,
    BadPrompt,
    Generation,
    label,
    require_contents,
    require_sound,
)
from ftray.serve.ops.metrics import Metrics
from ftray.serve.runners.generation_limits import Capacity
from ftray.serve.runners.generation_scheduler import Talks, Usage
from ftray.serve.runners.soundness import Soundness
from ftray.serve.schemas import MAX_READ
from ftray.spec.sections.serving import Batching


@dataclass(frozen=True, eq=False)
class LiveGenerator:
    """It has given its golden answers. Made by `Loader`."""

    name: str
    version: int | None
    generator: Generator
    batching: Batching
    capacity: Capacity
    metrics: Metrics
    talks: Talks = field(init=False)
    soundness: Soundness = field(default_factory=Soundness)

    def __post_init__(self) -> None:
        count = partial(_count, self.metrics, self.name, self.version)
        talks = Talks(self.generator, self.batching, self.capacity.cache_tokens, count)
        # A frozen dataclass has no other way to hold what is made of its fields.
        object.__setattr__(self, "talks", talks)

    @property
    def loaded(self) -> Generator:
        return self.generator

    @property
    def fault(self) -> str:
        """Why it does not answer; empty where it does."""
        return self.soundness.fault or self.talks.watch.fault

    async def check(self) -> None:
        """Give a golden answer, in the thread where the model computes, and note what came out."""
        replay = partial(self.generator.check_golden, most=1)
        await self.soundness.check(label(self), self.talks.between(replay))

    @property
    def info(self) -> ModelInfo:
        return self.generator.info

    async def answer(self, texts: Sequence[str], top_k: int | None) -> Answers:
        """What each text goes on with, at its likeliest. Raises BadPrompt, Overloaded."""
        if top_k is not None:
            raise BadPrompt("top_k", "the model generates text: it has no labels", "no_labels")
        require_contents([not self.generator.task.is_blank(text) for text in texts])
        # Those that wait for others of the same request wait here, for as long as it takes.
        places = asyncio.Semaphore(self.batching.max_size)
        tasks = [asyncio.ensure_future(self._text(text, places)) for text in texts]
        try:
            written = await asyncio.gather(*tasks)
        finally:  # of those whose neighbour failed, or whose client went away
            for task in tasks:
                task.cancel()
        outputs = [{GENERATED: text} for text in written]
        return Answers(self.name, self.version, (), outputs)

    async def _text(self, prompt: str, places: asyncio.Semaphore) -> str:
        async with places:
            generation = await self.generate(prompt, Sampling())
            return "".join([piece.text async for piece in generation.pieces])

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        """Its steps are shared with those of other requests. Raises BadPrompt, Overloaded,
        Unavailable."""
        require_sound(self)
        # Off the event loop, where others wait for the tokens of a long prompt to be found.
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
            ids = self.generator.prompt_ids(prompt)
        except ModelError as error:
            problem = error.problems[0]
            raise BadPrompt("prompt", f"{problem.problem}; {problem.fix}", "no_chat") from None
        if self._is_empty(prompt, ids):
            require_contents([False])
        vocabulary = self.generator.model.get_input_embeddings().num_embeddings
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
            return self.generator.task.is_blank(prompt) or not self.generator.has_tokens(ids)
        if prompt and isinstance(prompt[0], int):
            return False
        return not prompt or self.generator.task.is_blank(json.dumps(prompt))

    def apart(self) -> LiveGenerator:
        """It has a thread of its own in any case."""
        return self

    def settled(self) -> LiveGenerator:
        return self

    def close(self) -> None:
        """Its thread ends once those that have begun are answered."""


def _count(metrics: Metrics, name: str, version: int | None, told: Usage) -> None:
    metrics.count_answer(name, version, told.prompt_tokens, told.tokens, told.first_s)
