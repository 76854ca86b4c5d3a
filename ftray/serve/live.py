"""One version of a model that answers: loaded, proven by its golden answers, with a batcher."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from ftray.models.folder import ModelInfo
from ftray.models.predictor import Predictor
from ftray.serve.backend import Answers
from ftray.serve.batcher import Batcher, Limits
from ftray.spec.schema import Batching
from ftray.store.location import Location


class LiveModel:
    """Version `version`, out of `folder`."""

    def __init__(
        self,
        folder: Location,
        version: int | None,
        batching: Batching,
        bf16: bool,
        count_batch: Callable[[int | None, int], None],
    ) -> None:
        """Raises ModelError when there is no model, or it does not give its golden answers."""
        self.folder = folder
        self.version = version
        self._predictor = Predictor(folder, batching.max_size, bf16)
        self._predictor.check_golden()
        self._count_batch = count_batch
        limits = Limits(
            batching.max_size,
            batching.wait_ms / 1000,
            batching.max_waiting,
            batching.timeout_seconds,
        )
        self._batcher = Batcher(self._forward, limits, len)
        # The event loop goes on taking requests while texts become tokens.
        self._tokenizing = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")

    @property
    def info(self) -> ModelInfo:
        return self._predictor.info

    async def answer(self, texts: Sequence[str], top_k: int | None) -> Answers:
        """The texts share forward passes with those of other requests. Raises Overloaded."""
        loop = asyncio.get_running_loop()
        ids = await loop.run_in_executor(self._tokenizing, self._predictor.encode, texts)
        logits = torch.stack(await self._batcher.submit(ids))
        labels = self.info.labels
        outputs = self._predictor.task.answers(logits, labels, top_k)
        return Answers(self.version, labels, outputs)

    def close(self) -> None:
        """Nobody asks from now on but those who have begun; they are still answered."""
        self._batcher.close()

    def _forward(self, ids: list[list[int]]) -> Sequence[torch.Tensor]:
        """Logits of each row, (C,) float32. Runs in the batcher's thread."""
        self._count_batch(self.version, len(ids))
        return self._predictor.logits_of(ids).unbind()
