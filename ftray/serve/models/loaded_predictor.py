"""One loaded version of a model that answers example by example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ftray.models.generation.sampling_params import Prompt, Sampling
from ftray.models.inference.predictor import Predictor
from ftray.serve.interface import (
    Answers,
    BadPrompt,
    Generation,
    require_contents,
    require_sound,
)
from ftray.serve.models.live import Live
from ftray.serve.runners.engine import Engine
from ftray.tasks.base import Question
from ftray.tasks.features import cost


@dataclass(frozen=True, eq=False)
class LiveModel(Live[Predictor]):
    """A version whose examples the engine batches with those of other models."""

    engine: Engine
    home: Engine | None = None
    """The engine shared with other models, to which this model returns after a trial; None unless
    `engine` is this model's own."""

    @property
    def runner(self) -> Engine:
        return self.engine

    async def answer(self, questions: Sequence[Question], top_k: int | None) -> Answers:
        """Answer the questions, in forward passes shared with other requests. Raises BadPrompt,
        Overloaded, Unavailable."""
        require_sound(self)
        kind, predictor = self.info.kind, self.loaded
        if top_k is not None and not kind.ranks:
            raise BadPrompt("top_k", "the model gives one answer for each input", "no_labels")
        require_contents([not predictor.task.is_blank(question) for question in questions])
        answered = await self.engine.run(self, questions)
        outputs = predictor.respond(questions, answered, top_k)
        best = [predictor.task.summary(output) for output in outputs]
        tokens = sum(cost(each, predictor.features) for parts in answered for each, _ in parts)
        answers = Answers(self.name, self.version, self.info.labels, outputs, best, tokens)
        if kind.has_labels:
            self.metrics.count_labels(self.name, self.version, best)
        return answers

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation:
        """Raises BadPrompt: the model does not generate."""
        raise BadPrompt("prompt", "the model writes no text: ask /v1/predict", "no_generation")

    def apart(self) -> LiveModel:
        return replace(self, engine=self.engine.another(), home=self.engine)

    def settled(self) -> LiveModel:
        assert self.home is not None
        self.close()
        return replace(self, engine=self.home, home=None)

    def close(self) -> None:
        if self.home is not None:
            self.engine.close()
