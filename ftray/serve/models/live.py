"""One loaded version of a model, whatever the kind of its answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, Protocol, Self, TypeVar

from ftray.models.artifact.manifest import ModelInfo
from ftray.models.generation.sampling_params import Prompt, Sampling
from ftray.models.inference.loaded import LoadedModel
from ftray.serve.interface import Answers, Generation, label
from ftray.serve.ops.metrics import Metrics
from ftray.serve.runners.soundness import Soundness
from ftray.tasks.base import Question

Model = TypeVar("Model", bound=LoadedModel, covariant=True)


class Runner(Protocol):
    """The thread in which a model computes."""

    @property
    def fault(self) -> str:
        """Message that the thread hangs; empty while it does not."""
        ...

    async def between(self, work: Callable[[], None]) -> None:
        """Do `work` in the thread, between two calls. Raises what `work` raises."""
        ...


@dataclass(frozen=True, eq=False)
class Live(ABC, Generic[Model]):
    """A version that has reproduced its golden answers. `Loader` makes it.

    loaded: the object that holds the weights; `Slots` frees a slot once this object is gone.
    """

    name: str
    version: int | None
    loaded: Model
    metrics: Metrics
    soundness: Soundness = field(default_factory=Soundness, kw_only=True)

    @property
    @abstractmethod
    def runner(self) -> Runner: ...

    @property
    def info(self) -> ModelInfo:
        return self.loaded.info

    @property
    def fault(self) -> str:
        """Why the model does not answer; empty where it does."""
        return self.soundness.fault or self.runner.fault

    async def check(self) -> None:
        """Replay a golden answer in the thread where the model computes, and note the result."""
        replay = partial(self.loaded.check_golden, most=1)
        await self.soundness.check(label(self), self.runner.between(replay))

    @abstractmethod
    async def answer(self, questions: Sequence[Question], top_k: int | None) -> Answers:
        """Answer the questions. Raises BadPrompt, Overloaded, Unavailable."""

    @abstractmethod
    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        """Start an answer that is written piece by piece. Raises BadPrompt, Overloaded,
        Unavailable."""

    def apart(self) -> Self:
        """Return this model with a thread of its own, so that no other model waits for a slow
        one."""
        return self

    def settled(self) -> Self:
        """Return this model in the thread that it used before `apart`."""
        return self

    def close(self) -> None:
        """Release the model's own thread, where it has one that does not end by itself. The caller
        sends no new request; those that have begun are still answered."""
