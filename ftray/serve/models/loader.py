"""From a model folder to a version that answers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self
from weakref import WeakSet

from ftray.models.artifact.manifest import ModelInfo
from ftray.models.generation.generator import Generator
from ftray.models.generation.sampling_params import Prompt, Sampling
from ftray.models.inference.loaded import LoadedModel
from ftray.models.inference.predictor import Predictor
from ftray.models.load import load_model
from ftray.models.sharing.weight_sharing import Pool
from ftray.serve.interface import Answers, Generation
from ftray.serve.models.loaded_classifier import LiveModel
from ftray.serve.models.loaded_generator import LiveGenerator
from ftray.serve.ops.metrics import Metrics
from ftray.serve.runners.engine import Engine
from ftray.serve.runners.generation_limits import capacity
from ftray.serve.runners.generation_scheduler import Talks
from ftray.serve.runners.soundness import Soundness
from ftray.spec.sections.compute import Compute
from ftray.spec.sections.serving import Batching, GenerationLimits
from ftray.store.files.location import Location


class Live(Protocol):
    """One version of a model, which has given its golden answers."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int | None: ...

    @property
    def info(self) -> ModelInfo: ...

    @property
    def loaded(self) -> LoadedModel:
        """What takes the memory."""
        ...

    @property
    def soundness(self) -> Soundness: ...

    @property
    def fault(self) -> str:
        """Why it does not answer; empty where it does."""
        ...

    async def check(self) -> None:
        """Give a golden answer, in the thread where the model computes, and note what came out."""
        ...

    async def answer(self, texts: Sequence[str], top_k: int | None) -> Answers: ...

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation: ...

    def apart(self) -> Self:
        """The same where no other model waits for it when it is slow."""
        ...

    def settled(self) -> Self:
        """The same where it was before it was set apart."""
        ...

    def close(self) -> None:
        """Nobody asks from now on but those who have begun; they are still answered."""
        ...


@dataclass(frozen=True)
class Loader:
    """Loads the models of one process."""

    batching: Batching
    compute: Compute
    limits: GenerationLimits
    """Of models that generate."""
    metrics: Metrics
    engine: Engine
    pool: Pool | None
    """By which they share what is equal in them; to find that takes a while."""
    _generators: WeakSet[LiveGenerator] = field(default_factory=WeakSet)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def waiting(self) -> int:
        """Rows and requests that have not begun."""
        return self.engine.waiting + sum(talks.waiting for talks in self._talks())

    @property
    def utilization(self) -> float:
        """Work in hand of all models, as a share of what one of them computes at once."""
        return self.engine.utilization + sum(talks.utilization for talks in self._talks())

    def _talks(self) -> list[Talks]:
        with self._lock:
            return [live.talks for live in self._generators]

    def load(
        self, folder: Location, name: str, version: int | None, trust_remote_code: bool = False
    ) -> Live:
        """Raises ModelError when there is no model, or it does not give its golden answers."""
        model = load_model(folder, self.batching.max_size, self.compute, trust_remote_code)
        if self.pool is not None and self.compute.backend == "torch":
            self.pool.add(model)
        elif isinstance(model, Predictor):
            # Only here: to share passes the blocks themselves are needed.
            model.trace()
        model.check_golden()
        if isinstance(model, Generator):
            room = capacity(self.limits, model)
            live = LiveGenerator(name, version, model, self.batching, room, self.metrics)
            with self._lock:
                self._generators.add(live)
            return live
        assert isinstance(model, Predictor), "there is no third kind"
        model.measure_passes()
        return LiveModel(name, version, model, self.engine, self.metrics)
