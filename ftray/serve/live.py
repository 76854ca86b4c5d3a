"""One version of a model that answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ftray.models.folder import ModelInfo
from ftray.models.pool import Pool
from ftray.models.predictor import Predictor
from ftray.serve.backend import Answers
from ftray.serve.engine import Engine
from ftray.serve.metrics import Metrics
from ftray.spec.schema import Batching
from ftray.store.location import Location

_CPU_ROWS = 8
"""Of a batch that share a forward pass on a CPU, those of like length: there larger passes gain
little, and pad more."""


@dataclass(frozen=True, eq=False)
class LiveModel:
    """It has given its golden answers. Made by `Loader`."""

    name: str
    version: int | None
    predictor: Predictor
    engine: Engine
    metrics: Metrics
    home: Engine | None = None
    """The engine that it shares with other models, while it has one of its own."""

    @property
    def info(self) -> ModelInfo:
        return self.predictor.info

    async def answer(self, texts: Sequence[str], top_k: int | None) -> Answers:
        """The texts share forward passes with those of other requests. Raises Overloaded."""
        logits = await self.engine.logits(self, texts)
        labels = self.info.labels
        outputs = self.predictor.task.answers(logits, labels, top_k)
        answers = Answers(self.name, self.version, labels, outputs)
        self.metrics.count_labels(self.name, self.version, answers.best)
        return answers

    def apart(self) -> LiveModel:
        """The same with an engine of its own: when it is slow, no other model waits for it."""
        return replace(self, engine=self.engine.another(), home=self.engine)

    def settled(self) -> LiveModel:
        """The same where it was before it was set apart."""
        assert self.home is not None
        self.close()
        return replace(self, engine=self.home, home=None)

    def close(self) -> None:
        """Nobody asks from now on but those who have begun; they are still answered."""
        if self.home is not None:
            self.engine.close()


@dataclass(frozen=True)
class Loader:
    """Loads the models of one process."""

    batching: Batching
    bf16: bool
    metrics: Metrics
    engine: Engine
    pool: Pool | None
    """By which they share what is equal in them; to find that takes a while."""

    def load(self, folder: Location, name: str, version: int | None) -> LiveModel:
        """Raises ModelError when there is no model, or it does not give its golden answers."""
        most = self.batching.max_size
        rows = most if torch.cuda.is_available() else min(_CPU_ROWS, most)
        predictor = Predictor(folder, rows, self.bf16)
        if self.pool is not None:
            self.pool.add(predictor)
        predictor.check_golden()
        return LiveModel(name, version, predictor, self.engine, self.metrics)
