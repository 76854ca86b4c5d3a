"""One replica of the service: a process that holds models, and answers requests only after the
models have reproduced their golden answers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from fastapi import FastAPI
from ray import serve

from ftray.cluster.device import limit_memory, own_device
from ftray.models.sharing.weight_sharing import Pool
from ftray.serve.http.app import create_api
from ftray.serve.http.keyring import Keyring
from ftray.serve.interface import Backend
from ftray.serve.models.health import Health
from ftray.serve.models.live import Live
from ftray.serve.models.loader import Loader
from ftray.serve.models.model_cache import ModelCache
from ftray.serve.models.reporter import Reporter
from ftray.serve.models.slots import Slots
from ftray.serve.models.versions import VersionRouter
from ftray.serve.models.watcher import Watcher
from ftray.serve.ops import metrics
from ftray.serve.runners.engine import Engine
from ftray.serve.settings import ServedModel
from ftray.spec.sections.compute import Compute
from ftray.spec.sections.serving import Batching, GenerationLimits
from ftray.store.deployments.routes import VersionRef
from ftray.store.files.location import Location, locate

_PAGE_SECONDS = 5.0
_SWITCH_S = 0.0002


class Replica:
    """The models of one process, their HTTP application and their metrics."""

    def __init__(
        self,
        served: Sequence[ServedModel],
        batching: Batching,
        max_models: int,
        max_requests: int,
        generation: GenerationLimits,
        threads: int,
        compute: Compute,
        api_keys: str | None,
        loopback: bool,
    ) -> None:
        """Load the models, or the versions to which their aliases point by now, and replay their
        golden answers. Raises ModelError, ServeError or RunFailed for a model that cannot be
        served."""
        torch.set_num_threads(threads)
        # Between two operators the model's thread needs the GIL, which the event loop may keep for
        # one switch interval. Its default is 5 ms, as long as dozens of operators take.
        sys.setswitchinterval(_SWITCH_S)
        context = serve.get_replica_context()
        self._handle_of = (context.deployment, context.app_name)
        self._id = context.replica_id.unique_id
        self._metrics = metrics.Metrics(self._id)
        self._engine = Engine(batching, self._metrics)
        pool = Pool() if len(served) > 1 else None
        self._loader = Loader(batching, compute, generation, self._metrics, self._engine, pool)
        self._reporters: dict[str, Reporter] = {}
        with ExitStack() as otherwise:
            otherwise.callback(self.withdraw)
            self._loopback, self._max_requests = loopback, max_requests
            limit_memory(own_device())
            self._keys = None if api_keys is None else Keyring(locate(api_keys))
            wait_s = batching.timeout_seconds
            self._catalog = ModelCache(served, self._start, max_models, wait_s)
            self._health = Health(lambda: self._catalog.current)
            otherwise.pop_all()
        if self._keys is not None:
            self._keys.follow()

    def _start(self, model: ServedModel, slots: Slots) -> VersionRouter:
        """Load a served model. A model behind an alias begins with the versions in the alias's
        route, with which the other replicas answer."""
        alias = model.alias
        count_shadow = partial(self._metrics.count_shadow, model.name)

        def load(folder: Location, version: int | None) -> Live:
            trusts = model.trust_remote_code
            loads = partial(self._loader.load, folder, model.name, version, trusts)
            return slots.hold(model.address, loads)

        if alias is None:
            return VersionRouter(load(model.folder, model.version), count_shadow)

        def load_stop(stop: VersionRef) -> Live:
            return load(alias.folder(stop), stop.version)

        reporter = Reporter(alias, self._id)
        watcher = Watcher(alias, load_stop, reporter, count_shadow)
        self._reporters[model.address] = reporter
        watcher.follow()
        return watcher.shelf

    def withdraw(self) -> None:
        """Delete this replica's reports on the versions with which it answers."""
        for reporter in self._reporters.values():
            reporter.withdraw()

    def api(self) -> FastAPI:
        return create_api(self, self._metrics, self._keys, self._loopback, self._max_requests)

    @property
    def entries(self) -> Sequence[Backend]:
        return self._catalog.entries

    async def check_health(self) -> None:
        """Raises Unhealthy where a model does not answer, or answers wrongly."""
        await self._health.check()

    @property
    def utilization(self) -> float:
        return self._loader.utilization

    @property
    def fault(self) -> str:
        """Why this replica should get no requests; empty where it should."""
        return self._health.fault

    def find(self, name: str, version: str | None = None) -> Backend | None:
        """Find the model with this name or address, and this version number."""
        return self._catalog.find(name, version)

    async def metrics_page(self) -> bytes:
        """Return the metrics of all replicas of this deployment, without replicas that do not
        answer in time."""
        everyone = serve.get_deployment_handle(*self._handle_of).broadcast("snapshot")
        answers = await everyone.results_async(timeout_s=_PAGE_SECONDS, return_exceptions=True)
        return metrics.page(answer for answer in answers if isinstance(answer, list))

    def snapshot(self) -> Any:
        """Return the metrics of this replica."""
        return self._metrics.snapshot(self._catalog.entries, self._loader.waiting)
