"""One replica: the model in a process of its own, which answers only after it proved itself."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

import torch
from fastapi import FastAPI
from ray import serve

from ftray.errors import FtrayError, ModelError
from ftray.models.folder import ModelInfo
from ftray.serve import metrics
from ftray.serve.access import Keyring
from ftray.serve.alias import Alias, follow
from ftray.serve.api import create_api
from ftray.serve.backend import Answers
from ftray.serve.live import LiveModel
from ftray.serve.refusal import refusal
from ftray.serve.shelf import Shelf
from ftray.spec.schema import Batching
from ftray.store.location import Location, locate
from ftray.store.routes import Stop

_PAGE_SECONDS = 5.0
_SWITCH_S = 0.0002
_log = logging.getLogger(__name__)


@serve.ingress()
class Replica:
    """Ray Serve builds it, and routes HTTP to the application of `create_api`."""

    def __init__(
        self,
        folder: str,
        name: str,
        version: int | None,
        alias: Alias | None,
        batching: Batching,
        threads: int,
        on_gpu: bool,
        bf16: bool,
        api_keys: str | None,
    ) -> None:
        """Load the model, or what `alias` means by now, and replay its golden answers. When it
        raises, Ray Serve sends this replica no traffic."""
        if not on_gpu:
            # Ray shows a process that asked for no GPU all of them.
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        torch.set_num_threads(threads)
        # Between two operators the model's thread asks for the interpreter, which the event loop
        # may keep for so long: by default 5 ms, as long as dozens of operators take.
        sys.setswitchinterval(_SWITCH_S)
        context = serve.get_replica_context()
        self._handle_of = (context.deployment, context.app_name)
        self.name = name
        self._batching, self._bf16 = batching, bf16
        self._metrics = metrics.Metrics(name, context.replica_id.unique_id)
        try:
            self._keys = None if api_keys is None else Keyring(locate(api_keys))
            if alias is None:
                self._shelf = self._shelf_of(self._load(locate(folder), version))
            else:
                self._shelf = self._followed(alias, locate(folder), version)
        except FtrayError as error:
            raise refusal(error) from error

    def _followed(self, alias: Alias, folder: Location, version: int | None) -> Shelf:
        """Begins with what the alias means, or with the version that was deployed where that does
        not prove itself: the other replicas stay with it too."""
        route = alias.route()
        try:
            stop = None if route is None else route.current
            first = self._load(alias.folder(stop), stop.version) if stop else None
        except ModelError as error:
            _log.error("version %s answers: %s", version, error)
            first = None
        shelf = self._shelf_of(first or self._load(folder, version), alias)
        if route is not None:
            shelf.update(route)
        follow(alias, shelf.update)
        return shelf

    def _shelf_of(self, first: LiveModel, alias: Alias | None = None) -> Shelf:
        def load(stop: Stop) -> LiveModel:
            assert alias is not None, "without one nothing changes"
            return self._load(alias.folder(stop), stop.version)

        end_trial = (lambda trial, why: None) if alias is None else alias.end_trial
        return Shelf(first, load, end_trial, self._metrics.count_shadow)

    def _load(self, folder: Location, version: int | None) -> LiveModel:
        return LiveModel(folder, version, self._batching, self._bf16, self._metrics)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_api(self, self._metrics, self._keys)

    @property
    def version(self) -> int | None:
        return self._shelf.current.version

    @property
    def info(self) -> ModelInfo:
        return self._shelf.current.info

    async def answer(self, texts: Sequence[str], top_k: int | None) -> Answers:
        """One output a text, all by the same version."""
        return await self._shelf.answer(texts, top_k)

    async def metrics_page(self) -> bytes:
        """The counts of all replicas of this deployment, without those that do not answer."""
        everyone = serve.get_deployment_handle(*self._handle_of).broadcast("snapshot")
        answers = await everyone.results_async(timeout_s=_PAGE_SECONDS, return_exceptions=True)
        return metrics.page(answer for answer in answers if isinstance(answer, list))

    def snapshot(self) -> Any:
        """The counts of this replica."""
        return self._metrics.snapshot(self.version, self._shelf.current.waiting)
