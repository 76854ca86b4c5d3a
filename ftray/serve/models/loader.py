"""Loads a version from its model folder and checks its golden answers."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from weakref import WeakSet

from ftray.models.generation.generator import Generator
from ftray.models.inference.predictor import Predictor
from ftray.models.load import load_model
from ftray.models.sharing.weight_sharing import Pool
from ftray.serve.models.live import Live
from ftray.serve.models.loaded_generator import LiveGenerator
from ftray.serve.models.loaded_predictor import LiveModel
from ftray.serve.ops.metrics import Metrics
from ftray.serve.runners.engine import Engine
from ftray.serve.runners.generation_limits import capacity
from ftray.serve.runners.generation_scheduler import Talks
from ftray.spec.sections.compute import Compute
from ftray.spec.sections.serving import Batching, GenerationLimits
from ftray.store.files.location import Location


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
            live = LiveGenerator(name, version, model, self.metrics, self.batching, room)
            with self._lock:
                self._generators.add(live)
            return live
        assert isinstance(model, Predictor), "there is no third kind"
        model.measure_passes()
        return LiveModel(name, version, model, self.metrics, self.engine)
