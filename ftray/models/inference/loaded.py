"""A trained model in memory, of any task: answers, is measured, and checks its golden answers."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError

from ftray.cluster.device import own_device
from ftray.errors import ModelError
from ftray.models.artifact.contents import check_contents
from ftray.models.artifact.manifest import Golden, ModelInfo, check_files, read_info
from ftray.models.inference.measure import Measured, measure
from ftray.models.inference.passes import PassCost, plan
from ftray.models.inference.rounding import place_rounded
from ftray.models.pretrained import load_tokenizer
from ftray.models.sharing.prefix_hash import Lineage
from ftray.spec.sections.compute import PLAIN, Compute, Precision
from ftray.store.files.location import Location
from ftray.tasks import get_task
from ftray.tasks.base import Examples
from ftray.tasks.blank import frame, has_tokens
from ftray.tasks.tokens import Spend, free

GOLDEN_TOLERANCE = 1e-4
"""Largest allowed difference of a probability from its golden answer: rounding differs between
machines."""
TOLERANCES: Mapping[Precision, float] = {
    "fp32": GOLDEN_TOLERANCE,
    "bf16": 3e-2,
    "fp16": 4e-3,
    "int8": 1e-1,
}
"""Golden tolerance by precision: bf16 has a significand of eight bits, fp16 of eleven; int8 has
eight bits and a scale that many numbers share."""
_ROUNDED: Mapping[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Dtypes in which matrices are stored and multiplied."""


class Outcome(NamedTuple):
    """A prediction and its score, the model's confidence from 0 to 1. probabilities: of all labels,
    in their order; None where the model has no labels."""

    prediction: str
    score: float
    probabilities: list[float] | None = None


class LoadedModel(ABC):
    """The model in one folder, in eval mode, on the device of this process."""

    pass_cost = PassCost()

    def __init__(
        self,
        folder: Location,
        batch_size: int = 32,
        compute: Compute = PLAIN,
        trust_remote_code: bool = False,
    ) -> None:
        """trust_remote_code: whether code in the folder may run; nothing in the folder can set it.
        compute: under the precisions bf16 and fp16, autocast computes the operations that are safe
        in them so, and the rest in fp32. Raises ModelError when `folder` is not a model folder."""
        self.info: ModelInfo = read_info(folder)
        self.batch_size = batch_size
        self.compute = compute
        self.task = get_task(self.info.task)
        self.device = torch.device("cpu") if compute.on_cpu else own_device()
        with folder.as_local() as local:
            check_contents(local)
            check_files(local, self.info)
            self.model, self.tokenizer = self._load(local, trust_remote_code)
        self.tokenizing = threading.Lock()
        """Lock to hold while using the tokenizer, which several predictors may share."""
        self._computing = threading.Lock()
        self.lineage: Lineage | None = None
        """Tells which passes this model can share with others: see `Pool`."""

    def _load(self, local: Path, trust_remote_code: bool) -> tuple[Any, Any]:
        model: Any
        tokenizer = load_tokenizer(local, trust_remote_code)
        try:
            model = self.task.load_model(
                str(local),
                self.info.labels,
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=trust_remote_code,
                use_safetensors=True,
            )
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise ModelError.of(
                "model", str(local), f"cannot be loaded: {error}", "export the model again"
            ) from None
        if self._rounded is None:
            model = model.to(self.device)
        else:
            place_rounded(model, self.device, self._rounded)
        return model.eval(), tokenizer

    @property
    def _rounded(self) -> torch.dtype | None:
        return _ROUNDED.get(self.compute.precision)

    def encode(self, texts: Sequence[str], spend: Spend = free) -> list[list[int]]:
        """Return the token ids of each text, as the model reads them."""
        with self.tokenizing:
            return self.task.encode(self.tokenizer, texts, self.info.max_length, spend)

    def has_tokens(self, ids: Sequence[int]) -> bool:
        """Return whether the ids of a text hold any token but the special ones around every
        text."""
        return has_tokens(ids, self._frame)

    def reads(self, texts: Sequence[str]) -> list[bool]:
        """Return for each text whether its ids hold any token but special ones."""
        return [self.has_tokens(ids) for ids in self.encode(texts)]

    @cached_property
    def _frame(self) -> frozenset[int]:
        return frame(self.tokenizer)

    @property
    def most_tokens(self) -> int:
        """Most tokens of a text that the model reads; the rest is cut."""
        return self.info.max_length

    def cut(self, texts: Sequence[str]) -> list[bool]:
        """Return for each text whether it has more tokens than the model reads."""
        with self.tokenizing:
            lengths = self.task.lengths(self.tokenizer, texts)
        return [length > self.most_tokens for length in lengths]

    def collate(self, ids: Sequence[Sequence[int] | np.ndarray]) -> dict[str, torch.Tensor]:
        """Return the model's inputs, on its device, padded to the longest of these rows."""
        batch = self.task.collate(ids, self.tokenizer.pad_token_id)
        return {name: tensor.to(self.device) for name, tensor in batch.items()}

    def example(self) -> dict[str, torch.Tensor]:
        """Return inputs of two rows, the first of which is padded."""
        return self.collate(self.encode(["a", "some more words than one"]))

    def by_length(self, ids: Sequence[Sequence[int] | np.ndarray]) -> Iterator[list[int]]:
        """Yield the places of rows that are to share a forward pass: rows of similar length."""
        yield from plan([len(row) for row in ids], self.batch_size, self.pass_cost)

    def measure(self, ids: Sequence[Sequence[int] | np.ndarray], targets: np.ndarray) -> Measured:
        """Return the model's metrics on encoded rows."""
        pad_id, labels = self.tokenizer.pad_token_id, self.info.labels
        with self.inference():
            return measure(self.model, self.task, ids, targets, labels, pad_id, self.batch_size)

    def examples(self, rows: Mapping[str, Sequence[str]]) -> Examples:
        """Return the examples of clean rows (column -> values) for measuring the model. All labels
        of the rows must be among the model's."""
        labels, longest = self.info.labels, self.info.max_length
        with self.tokenizing:
            return self.task.examples(self.tokenizer, rows, labels, longest)

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Lock the model for this thread; compute without gradients, in the requested precision."""
        with self._computing, torch.inference_mode(), self.autocast():
            yield

    def autocast(self) -> torch.autocast:
        # No cache of rounded weights is needed: `place_rounded` has rounded them already.
        return torch.autocast(
            self.device.type, self._rounded, enabled=self._rounded is not None, cache_enabled=False
        )

    @abstractmethod
    def outcomes(self, texts: Sequence[str]) -> list[Outcome]:
        """Return the prediction for each text."""

    @abstractmethod
    def golden(self, texts: Sequence[str]) -> tuple[Golden, ...]:
        """Return golden answers, by which another machine can check that it runs this model."""

    @abstractmethod
    def replayed(self, golden: Sequence[Golden]) -> list[list[float]]:
        """Return the probabilities that this model gives for each golden answer."""

    def check_golden(self, most: int | None = None) -> None:
        """Replay the golden answers, or the first `most` of them. Raises ModelError when the model
        no longer gives them."""
        golden, tolerance = self.info.golden[:most], TOLERANCES[self.compute.precision]
        found = self.replayed(golden) if golden else []
        exact = "" if self.compute.precision == "fp32" else ", or set serve.precision to fp32"
        for item, row in zip(golden, found, strict=True):
            gap = max(abs(a - b) for a, b in zip(item.probabilities, row, strict=True))
            if not gap <= tolerance:
                raise ModelError.of(
                    f"golden answers of {self.info.name}",
                    item.input,
                    f"a probability is off by {gap:.2g}, and {tolerance:g} is rounding: "
                    "the folder was changed, or the libraries compute something else here",
                    "export the model again, or serve with the library versions it was made with"
                    + exact,
                )
