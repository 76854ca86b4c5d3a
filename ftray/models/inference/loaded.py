"""A trained model in memory, of any task: answers, is measured, and checks its golden answers."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError

from ftray.cluster.device import own_device
from ftray.errors import ModelError, shorten
from ftray.models.artifact.contents import check_contents
from ftray.models.artifact.manifest import Golden, ModelInfo, check_files, read_info
from ftray.models.inference.measure import InMemory, Measured, measure
from ftray.models.inference.passes import PassCost, plan
from ftray.models.inference.rounding import place_rounded
from ftray.models.pretrained import load_processor
from ftray.models.sharing.prefix_hash import Lineage
from ftray.spec.sections.compute import PLAIN, Compute, Precision
from ftray.store.files.location import Location
from ftray.tasks import get_task
from ftray.tasks.base import Question, Spend, TaskSetup, free, from_json
from ftray.tasks.features import Batch, Example, Examples, cost

GOLDEN_TOLERANCE = 1e-4
"""Largest allowed difference of a number from its golden answer: rounding differs between
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
    """The columns that prediction adds to a row. probabilities: of all labels, in their order; None
    where the model has no labels."""

    columns: Mapping[str, Any]
    probabilities: list[float] | None = None


@dataclass(frozen=True)
class Unfinished:
    """A model folder in the making. info: its manifest, which is not written yet; loaded: the model
    in its place and its task's setup, in place of those in the folder."""

    info: ModelInfo
    loaded: tuple[Any, TaskSetup] | None = None


class LoadedModel(ABC):
    """The model in one folder, in eval mode, on the device of this process."""

    pass_cost = PassCost()

    def __init__(
        self,
        folder: Location,
        batch_size: int = 32,
        compute: Compute = PLAIN,
        trust_remote_code: bool = False,
        unfinished: Unfinished | None = None,
    ) -> None:
        """trust_remote_code: whether code in the folder may run; nothing in the folder can set it.
        unfinished: what stands for the manifest of a folder in the making.
        compute: under the precisions bf16 and fp16, autocast computes the operations that are safe
        in them so, and the rest in fp32. Raises ModelError when `folder` is not a model folder."""
        self.info: ModelInfo = unfinished.info if unfinished else read_info(folder)
        self.batch_size = batch_size
        self.compute = compute
        self.task = get_task(self.info.task)
        self.device = torch.device("cpu") if compute.on_cpu else own_device()
        if unfinished and unfinished.loaded:
            self.model, self.setup = unfinished.loaded
        else:
            with folder.as_local() as local:
                check_contents(local)
                check_files(local, self.info)
                self.model, self.setup = self._load(local, trust_remote_code)
        self.features = self.task.features(self.setup)
        self.tokenizing = threading.Lock()
        """Lock to hold while using the processor, which several models may share."""
        self._computing = threading.Lock()
        self.lineage: Lineage | None = None
        """Tells which passes this model can share with others: see `Pool`."""

    def _load(self, local: Path, trust_remote_code: bool) -> tuple[Any, TaskSetup]:
        model: Any
        info = self.info
        options = info.kind.options.model_validate(info.spec.get("task_options", {}))
        processor = load_processor(local, info.kind, trust_remote_code)
        setup = TaskSetup(processor, info.fitted, info.max_length, options)
        try:
            model = self.task.load_model(
                str(local),
                info.fitted,
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
        return model.eval(), setup

    @property
    def _rounded(self) -> torch.dtype | None:
        return _ROUNDED.get(self.compute.precision)

    def encode(self, questions: Sequence[Question], spend: Spend = free) -> list[list[Example]]:
        """Return the examples of each question; none where it gives the model nothing to read."""
        with self.tokenizing:
            return self.task.encode(self.setup, questions, spend)

    @property
    def most_tokens(self) -> int:
        """Most tokens of a text that the model reads; the rest is cut."""
        return self.info.max_length

    def cut(self, questions: Sequence[Question]) -> list[bool]:
        """Return for each question whether it is longer than the model reads."""
        with self.tokenizing:
            lengths = self.task.lengths(self.setup, questions)
        return [length > self.most_tokens for length in lengths]

    def batch(self, examples: Sequence[Example]) -> Batch:
        """Return a batch on the model's device."""
        return self.task.collate(self.setup, examples).to(self.device)

    def dummies(self, *sizes: int) -> dict[str, torch.Tensor]:
        """Return the inputs of made-up examples of these sizes, the shorter ones padded."""
        return self.batch(self.made_up(*sizes)).inputs

    def made_up(self, *sizes: int) -> list[Example]:
        """Return made-up examples of these sizes, with the inputs that a question of this model
        has: pairs of texts have token types, and single ones none."""
        asked = self.task.made_up(self.setup, self.info.inputs, 1, np.random.default_rng(0))
        read = getattr(self.setup.processor, "model_input_names", ())
        names = [n for example in self.encode([asked])[0] for n in example if n in read]
        ragged = [n for n in names if self.features[n].shape is None]
        return [
            {**dict.fromkeys(ragged, [0] * size), **self.task.dummy(self.setup, size)}
            for size in sizes
        ]

    def passes(self, examples: Sequence[Example]) -> Iterator[list[int]]:
        """Yield the places of examples that are to share a forward pass: those of similar cost."""
        costs = [cost(example, self.features) for example in examples]
        yield from plan(costs, self.batch_size, self.pass_cost)

    def measure(self, rows: Examples) -> Measured:
        """Return the model's metrics on examples with targets."""
        split = InMemory(rows, self.task, self.setup)
        with self.inference():
            return measure(self.model, self.task, self.setup, split, self.device, self.batch_size)

    def examples(self, rows: Mapping[str, Sequence[Any]]) -> Examples:
        """Return the examples of clean rows (column -> values) for measuring the model. All labels
        of the rows must be among the model's."""
        with self.tokenizing:
            return self.task.examples(self.setup, rows)

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
    def outcomes(self, questions: Sequence[Question]) -> list[Outcome | None]:
        """Return the prediction for each question; None where it gives the model nothing to
        read."""

    @abstractmethod
    def golden(self, questions: Sequence[Question]) -> tuple[Golden, ...]:
        """Return golden answers, by which another machine can check that it runs this model."""

    @abstractmethod
    def replayed(self, golden: Sequence[Golden]) -> list[list[float]]:
        """Return the numbers that this model gives for each golden answer."""

    def question_of(self, golden: Golden) -> Question:
        return from_json(golden.input, self.info.inputs)

    def check_golden(self, most: int | None = None) -> None:
        """Replay the golden answers, or the first `most` of them. Raises ModelError when the model
        no longer gives them."""
        golden, tolerance = self.info.golden[:most], TOLERANCES[self.compute.precision]
        found = self.replayed(golden) if golden else []
        exact = "" if self.compute.precision == "fp32" else ", or set serve.precision to fp32"
        for item, row in zip(golden, found, strict=True):
            gap = max(abs(a - b) for a, b in zip(item.numbers, row, strict=True))
            if not gap <= tolerance:
                raise ModelError.of(
                    f"golden answers of {self.info.name}",
                    shorten(str(item.input)),
                    f"a {'probability' if self.info.kind.output != 'numbers' else 'number'} is off "
                    f"by {gap:.2g}, and {tolerance:g} is rounding: "
                    "the folder was changed, or the libraries compute something else here",
                    "export the model again, or serve with the library versions it was made with"
                    + exact,
                )
