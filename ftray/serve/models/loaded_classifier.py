"""One loaded version of a model that answers example by example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from ftray.models.artifact.manifest import ModelInfo
from ftray.models.generation.sampling_params import Prompt, Sampling
from ftray.models.inference.predictor import Predictor
from ftray.serve.interface import (
    Answers,
    BadPrompt,
    Generation,
    label,
    require_contents,
    require_sound,
)
from ftray.serve.ops.metrics import Metrics
from ftray.serve.runners.engine import Engine
from ftray.serve.runners.soundness import Soundness
from ftray.tasks.base import Question


@dataclass(frozen=True, eq=False)
class LiveModel:
    """A version that has reproduced its golden answers. `Loader` makes it."""

    name: str
    version: int | None
    predictor: Predictor
    engine: Engine
    metrics: Metrics
    home: Engine | None = None
    """The engine shared with other models, to which this model returns after a trial; None unless
    `engine` is this model's own."""
    soundness: Soundness = field(default_factory=Soundness)

    @property
    def loaded(self) -> Predictor:
        return self.predictor

    @property
    def fault(self) -> str:
        """Why the model does not answer; empty where it does."""
        return self.soundness.fault or self.engine.fault

    async def check(self) -> None:
        """Replay a golden answer in the thread where the model computes, and note the result."""
        replay = partial(self.predictor.check_golden, most=1)
        await self.soundness.check(label(self), self.engine.between(replay))

    @property
    def info(self) -> ModelInfo:
        return self.predictor.info

    async def answer(self, questions: Sequence[Question], top_k: int | None) -> Answers:
        """Answer the questions, in forward passes shared with other requests. Raises BadPrompt,
        Overloaded, Unavailable."""
        require_sound(self)
        kind, predictor = self.info.kind, self.predictor
        if top_k is not None and not kind.ranks:
            raise BadPrompt("top_k", "the model gives one answer for each input", "no_labels")
        require_contents([not predictor.task.is_blank(question) for question in questions])
        answered = await self.engine.run(self, questions)
        outputs = predictor.respond(questions, answered, top_k)
        best = [predictor.task.summary(output) for output in outputs]
        answers = Answers(self.name, self.version, self.info.labels, outputs, best)
        if kind.has_labels:
            self.metrics.count_labels(self.name, self.version, best)
        return answers

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        """Raises BadPrompt: the model does not generate."""
        raise BadPrompt("prompt", "the model writes no text: ask /v1/predict", "no_generation")

    def apart(self) -> LiveModel:
        """Return this model with an engine of its own, so that no other model waits for a slow
        one."""
        return replace(self, engine=self.engine.another(), home=self.engine)

    def settled(self) -> LiveModel:
        """Return this model on the shared engine that it used before `apart`."""
        assert self.home is not None
        self.close()
        return replace(self, engine=self.home, home=None)

    def close(self) -> None:
        """Close the model's own engine, if it has one. The caller sends no new request; the engine
        still answers those that have begun."""
        if self.home is not None:
            self.engine.close()
