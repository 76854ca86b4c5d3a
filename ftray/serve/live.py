"""One version of a model that answers: loaded, proven by its golden answers, with a batcher."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from ftray.models.folder import ModelInfo
from ftray.models.predictor import Predictor
from ftray.serve.backend import Answers
from ftray.serve.batcher import Batcher, Limits
from ftray.serve.metrics import Metrics
from ftray.spec.schema import Batching
from ftray.store.location import Location

_CPU_ROWS = 8
"""Of a call that share a forward pass on a CPU, those of like length: there larger passes gain
little, and pad more."""


class LiveModel:
    """Version `version`, out of `folder`."""

    def __init__(
        self,
        folder: Location,
        version: int | None,
        batching: Batching,
        bf16: bool,
        metrics: Metrics,
    ) -> None:
        """Raises ModelError when there is no model, or it does not give its golden answers."""
        self.folder = folder
        self.version = version
        rows = batching.max_size if torch.cuda.is_available() else min(_CPU_ROWS, batching.max_size)
        self._predictor = Predictor(folder, rows, bf16)
        self._predictor.check_golden()
        self._metrics = metrics
        limits = Limits(
            batching.max_size,
            batching.wait_ms / 1000,
            batching.max_waiting,
            batching.timeout_seconds,
        )
        # Characters say well enough which texts are alike: their tokens are counted in the model's
        # thread, where a batch of them costs little more than one.
        self._batcher = Batcher(self._forward, limits, len)

    @property
    def info(self) -> ModelInfo:
        return self._predictor.info

    async def answer(self, texts: Sequence[str], top_k: int | None) -> Answers:
        """The texts share forward passes with those of other requests. Raises Overloaded."""
        logits = torch.stack(await self._batcher.submit(texts))
        labels = self.info.labels
        outputs = self._predictor.task.answers(logits, labels, top_k)
        answers = Answers(self.version, labels, outputs)
        self._metrics.count_labels(self.version, answers.best)
        return answers

    @property
    def waiting(self) -> int:
        """Rows that wait for a batch."""
        return self._batcher.waiting

    def close(self) -> None:
        """Nobody asks from now on but those who have begun; they are still answered."""
        self._batcher.close()

    def _forward(self, texts: list[str]) -> Sequence[torch.Tensor]:
        """Logits of each text, (C,) float32. Runs in the batcher's thread."""
        began, waited = time.perf_counter(), self._batcher.waited
        logits = self._predictor.logits(texts).unbind()
        seconds = time.perf_counter() - began
        self._metrics.count_batch(self.version, len(texts), waited, seconds)
        return logits
