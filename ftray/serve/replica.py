"""One replica: the model in a process of its own, which answers only after it proved itself."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from fastapi import FastAPI
from ray import serve

from ftray.errors import FtrayError
from ftray.models.predictor import Predictor
from ftray.serve import metrics
from ftray.serve.access import Keyring
from ftray.serve.api import create_api
from ftray.serve.batcher import Batcher, Limits
from ftray.serve.refusal import refusal
from ftray.spec.schema import Batching
from ftray.store.location import locate

_PAGE_SECONDS = 5.0


@serve.ingress()
class Replica:
    """Ray Serve builds it, and routes HTTP to the application of `create_api`."""

    def __init__(
        self,
        folder: str,
        name: str,
        version: int | None,
        batching: Batching,
        threads: int,
        on_gpu: bool,
        bf16: bool,
        api_keys: str | None,
    ) -> None:
        """Load the model and replay its golden answers. When it raises, Ray Serve sends this
        replica no traffic."""
        if not on_gpu:
            # Ray shows a process that asked for no GPU all of them.
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        torch.set_num_threads(threads)
        context = serve.get_replica_context()
        self._handle_of = (context.deployment, context.app_name)
        self.name, self.version = name, version
        self._metrics = metrics.Metrics(name, str(version or ""), context.replica_id.unique_id)
        try:
            self._predictor = Predictor(locate(folder), batching.max_size, bf16)
            self._predictor.check_golden()
            self._keys = None if api_keys is None else Keyring(locate(api_keys))
        except FtrayError as error:
            raise refusal(error) from error
        self.info = self._predictor.info
        limits = Limits(
            batching.max_size,
            batching.wait_ms / 1000,
            batching.max_waiting,
            batching.timeout_seconds,
        )
        self._batcher = Batcher(self._forward, limits, len)
        # The event loop goes on taking requests while texts become tokens.
        self._tokenizing = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_api(self, self._metrics, self._keys)

    async def answer(self, texts: Sequence[str], top_k: int | None) -> list[Any]:
        """One answer a text; the texts share forward passes with those of other requests."""
        loop = asyncio.get_running_loop()
        ids = await loop.run_in_executor(self._tokenizing, self._predictor.encode, texts)
        logits = torch.stack(await self._batcher.submit(ids))
        return self._predictor.task.answers(logits, self._predictor.info.labels, top_k)

    async def metrics_page(self) -> bytes:
        """The counts of all replicas of this deployment, without those that do not answer."""
        everyone = serve.get_deployment_handle(*self._handle_of).broadcast("snapshot")
        answers = await everyone.results_async(timeout_s=_PAGE_SECONDS, return_exceptions=True)
        return metrics.page(answer for answer in answers if isinstance(answer, list))

    def snapshot(self) -> metrics.Snapshot:
        """The counts of this replica."""
        return self._metrics.snapshot()

    def _forward(self, ids: list[list[int]]) -> Sequence[torch.Tensor]:
        """Logits of each row, (C,) float32. Runs in the batcher's thread."""
        self._metrics.count_batch(len(ids))
        return self._predictor.logits_of(ids).unbind()
