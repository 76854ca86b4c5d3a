"""Loads a version from its model folder and checks its golden answers."""

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
from ftray.tasks.base import Question


class Live(Protocol):
    """One loaded version of a model, which has reproduced its golden answers."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int | None: ...

    @property
    def info(self) -> ModelInfo: ...

    @property
    def loaded(self) -> LoadedModel:
        """The object that holds the weights: `Slots` frees a slot once this object is gone."""
        ...

    @property
    def soundness(self) -> Soundness: ...

    @property
    def fault(self) -> str:
        """Why the model does not answer; empty where it does."""
        ...

    async def check(self) -> None:
        """Replay a golden answer in the thread where the model computes, and note the result."""
        ...

    async def answer(self, questions: Sequence[Question], top_k: int | None) -> Answers: ...

    async def generate(self, prompt: Prompt, sampling: Sampling) -> Generation: ...

    def apart(self) -> Self:
        """Return this model with a thread of its own, so that no other model waits for a slow
        one."""
        ...

    def settled(self) -> Self:
        """Return this model in the thread that it used before `apart`."""
        ...

    def close(self) -> None:
        """Release the model's own thread, if it has one. The caller sends no new request; those
        that have begun are still answered."""
        ...


@dataclass(frozen=True)
class Loader:
    """Loads the models of one process."""

    batching: Batching
    compute: Compute
    limits: GenerationLimits
    """Limits for models that generate."""
    metrics: Metrics
    engine: Engine
    pool: Pool | None
    """Shares equal weights and tokenizers between models. None where one model is served: comparing
    the weights takes a while."""
    _generators: WeakSet[LiveGenerator] = field(default_factory=WeakSet)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def waiting(self) -> int:
        """Number of rows and generation requests whose computation has not begun."""
        return self.engine.waiting + sum(talks.waiting for talks in self._talks())

    @property
    def utilization(self) -> float:
        """Work in hand: the sum over the shared engine and all generators, each as a share of its
        full batch."""
        return self.engine.utilization + sum(talks.utilization for talks in self._talks())

    def _talks(self) -> list[Talks]:
        with self._lock:
            return [live.talks for live in self._generators]

    def load(
        self, folder: Location, name: str, version: int | None, trust_remote_code: bool = False
    ) -> Live:
        """Load a version. Raises ModelError when the folder holds no model, or the model does not
        reproduce its golden answers."""
        model = load_model(folder, self.batching.max_size, self.compute, trust_remote_code)
        if self.pool is not None and self.compute.backend == "torch":
            self.pool.add(model)
        elif isinstance(model, Predictor):
            # A traced graph replaces the model's blocks, which models of a pool need to share
            # forward passes: only a model outside a pool is traced.
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
