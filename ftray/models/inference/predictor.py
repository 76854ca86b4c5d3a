"""A trained classifier that answers; evaluation, batch prediction and serving all call it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch

from ftray.models.artifact.manifest import Golden
from ftray.models.backends.graph import Unfit
from ftray.models.backends.onnx import OnnxModel
from ftray.models.backends.traced import TracedModel
from ftray.models.inference.loaded import LoadedModel, Outcome
from ftray.models.inference.passes import measure_cost
from ftray.spec.sections.compute import PLAIN, Compute
from ftray.store.files.location import Location
from ftray.tasks.base import Labelling
from ftray.tasks.tokens import GLANCE

_GOLDEN_LABELS = 50
"""Most labels whose probabilities a golden answer holds."""

_MEASURED_TOKENS = 64
"""Tokens of the longer row with which `measure_passes` measures the cost of a forward pass."""

_log = logging.getLogger(__name__)


class Predictor(LoadedModel):
    """Gives one answer for each row, from logits of all labels."""

    def __init__(
        self,
        folder: Location,
        batch_size: int = 32,
        compute: Compute = PLAIN,
        trust_remote_code: bool = False,
    ) -> None:
        """Load the model. Raises ModelError also where ONNX cannot compute it."""
        super().__init__(folder, batch_size, compute, trust_remote_code)
        if compute.backend == "onnx":
            self.model = OnnxModel(self.model, self._examples(), compute.precision == "int8")

    def is_long(self, text: str) -> bool:
        """Return whether a text is so long that tokenizing it takes a while."""
        return len(text) > GLANCE * self.info.max_length

    def trace(self) -> None:
        """Replace the model by torch's traced graph on the CPU, where the model allows it: the
        graph is faster. The model itself, its blocks and weights, is then no longer accessible."""
        if self.device.type != "cpu" or self.compute.backend != "torch":
            return
        try:
            with self.inference():
                self.model = TracedModel(self.model, self._examples())
        except Unfit as error:
            _log.info("%s is computed without a graph: %s", self.info.name, error)

    def measure_passes(self) -> None:
        """Measure the fixed cost of a forward pass, by which rows are then split into passes."""
        short, long = self.encode(["a", "some words " * self.info.max_length])
        long = long[:_MEASURED_TOKENS]
        if len(short) < len(long):
            self.pass_cost = measure_cost(lambda ids: self.logits_of([ids]), short, long)

    def _examples(self) -> list[dict[str, torch.Tensor]]:
        """Return inputs of several shapes, from the shortest row to the longest, with and without
        padding."""
        (row,) = self.encode(["some words " * self.info.max_length])
        return [self.example(), *map(self.collate, ([row], [row[:1]], [row, row[:2], row[:5]]))]

    def logits(self, texts: Sequence[str]) -> torch.Tensor:
        """Return logits, (len(texts), C) float32 on the CPU, in the order of `texts`."""
        return self.logits_of(self.encode(texts))

    def logits_of(self, ids: Sequence[Sequence[int] | np.ndarray]) -> torch.Tensor:
        """Return logits, (len(ids), C) float32 on the CPU, in the order of `ids`.

        Rows of similar length share a forward pass; the order of arrival does not change an answer
        beyond rounding.
        """
        result = torch.empty(len(ids), len(self.info.labels))
        for chosen in self.by_length(ids):
            inputs = self.collate([ids[i] for i in chosen])
            with self.inference():
                result[chosen] = self.model(**inputs).logits.float().cpu()
        return result

    def answers(self, texts: Sequence[str], top_k: int | None = None) -> list[Any]:
        """Return one answer for each text, in the shape of the task's Hugging Face pipeline."""
        return self.answers_of(self.logits(texts), top_k) if texts else []

    def answers_of(self, logits: torch.Tensor, top_k: int | None = None) -> list[Any]:
        """Return one answer for each row of logits (B, C), as `answers` does."""
        return cast(Labelling, self.task).answers(logits, self.info.labels, top_k)

    def outcomes(self, texts: Sequence[str]) -> list[Outcome]:
        if not texts:
            return []
        logits = self.logits(texts)
        shares = torch.softmax(logits, -1).tolist()
        return [
            Outcome(answer["label"], answer["score"], row)
            for answer, row in zip(self.answers_of(logits), shares, strict=True)
        ]

    def golden(self, texts: Sequence[str]) -> tuple[Golden, ...]:
        """Return the golden answers: the probabilities of each text's likeliest labels."""
        if not texts:
            return ()
        shares = torch.softmax(self.logits(texts), -1)
        if shares.shape[-1] <= _GOLDEN_LABELS:
            rows = shares.tolist()
            return tuple(
                Golden(input=text, probabilities=tuple(row))
                for text, row in zip(texts, rows, strict=True)
            )
        found, places = shares.topk(_GOLDEN_LABELS)
        return tuple(
            Golden(input=text, probabilities=tuple(row), labels=tuple(of))
            for text, row, of in zip(texts, found.tolist(), places.tolist(), strict=True)
        )

    def replayed(self, golden: Sequence[Golden]) -> list[list[float]]:
        if not golden:
            return []
        shares = torch.softmax(self.logits([item.input for item in golden]), -1)
        return [
            (row[list(item.labels)] if item.labels else row).tolist()
            for row, item in zip(shares, golden, strict=True)
        ]
