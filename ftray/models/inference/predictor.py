"""A trained model that answers example by example, for evaluation, batch prediction and
serving."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ftray.models.artifact.manifest import Golden
from ftray.models.backends.graph import Unfit
from ftray.models.backends.onnx import OnnxModel
from ftray.models.backends.traced import TracedModel
from ftray.models.inference.loaded import LoadedModel, Outcome, Unfinished
from ftray.models.inference.passes import PassCost, measure_cost
from ftray.spec.sections.compute import PLAIN, Compute
from ftray.store.files.location import Location
from ftray.tasks.base import Answered, Outputs, Question, as_json
from ftray.tasks.features import Example, cost
from ftray.tasks.text.tokens import GLANCE

_GOLDEN_NUMBERS = 50
"""Most numbers that a golden answer holds."""

_MEASURED_TOKENS = (3, 64)
"""Tokens of the rows with which `measure_passes` measures the cost of a forward pass. For a single
token a processor multiplies vectors, which takes less than the cost of a pass tells."""

_log = logging.getLogger(__name__)


class Predictor(LoadedModel):
    """Gives one answer for each question, from the outputs of the model for its examples."""

    def __init__(
        self,
        folder: Location,
        batch_size: int = 32,
        compute: Compute = PLAIN,
        trust_remote_code: bool = False,
        unfinished: Unfinished | None = None,
    ) -> None:
        """Load the model. Raises ModelError also where ONNX cannot compute it."""
        super().__init__(folder, batch_size, compute, trust_remote_code, unfinished)
        if compute.backend == "onnx":
            int8 = compute.precision == "int8"
            self.model = OnnxModel(self.model, self._shapes(), self._tensors, int8)

    def write_onnx(self, file: Path) -> None:
        """Write ONNX's graph of the model. Raises ModelError where ONNX has none for it."""
        with self.inference():
            OnnxModel(self.model, self._shapes(), self._tensors, int8=False, keep=file)

    def is_long(self, question: Question) -> bool:
        """Return whether a question is so long that encoding it takes a while."""
        return self.task.size(question) > GLANCE * self.info.max_length

    def trace(self) -> None:
        """Replace the model by torch's traced graph on the CPU, where the model allows it: the
        graph is faster, most of all one without padding. The model itself, its blocks and weights,
        is then no longer accessible."""
        if self.device.type != "cpu" or self.compute.backend != "torch" or self.info.kind.writes:
            return  # a graph is one forward pass, and a text takes many
        for packs in (True, False):
            try:
                with self.inference():
                    self.model = TracedModel(self.model, self._shapes(), self._tensors, packs)
            except Unfit as error:
                form = "without padding" if packs else "as a graph"
                _log.info("%s is not computed %s: %s", self.info.name, form, error)
                continue
            self.pass_cost = PassCost(packs=packs)
            return

    def measure_passes(self) -> None:
        """Measure the fixed cost of a forward pass, by which rows are then split into passes."""
        sizes = (min(size, self.info.max_length) for size in _MEASURED_TOKENS)
        short, long = self.made_up(*sizes)
        costs = cost(short, self.features), cost(long, self.features)
        if costs[0] < costs[1]:
            found = measure_cost(lambda row: self.outputs_of([row]), (short, long), costs)
            self.pass_cost = replace(found, packs=self.pass_cost.packs)

    @property
    def _tensors(self) -> tuple[str, ...]:
        """The names of the tensors that the task reads of the model's output."""
        return self.task.model_outputs or self.task.outputs

    def _shapes(self) -> list[dict[str, torch.Tensor]]:
        """Return inputs of several shapes, from the shortest row to the longest, with and without
        padding."""
        longest = max(1, self.info.max_length)
        few = [min(size, longest) for size in (2, 5)]
        return [
            self.dummies(3, min(8, max(4, longest))),
            *(self.dummies(*sizes) for sizes in ((longest,), (1,), (longest, *few))),
        ]

    def outputs_of(self, examples: Sequence[Example]) -> list[Outputs]:
        """Return the model's outputs for each example, float32 on the CPU.

        Examples of similar cost share a forward pass; the order of arrival does not change an
        answer beyond rounding.
        """
        found: list[Outputs] = [{}] * len(examples)
        for chosen in self.passes(examples):
            inputs = self.batch([examples[place] for place in chosen]).inputs
            with self.inference():
                outputs = self.task.infer(self.model, inputs, self.setup)
                rows = each_of(outputs)
            for place, row in zip(chosen, rows, strict=True):
                found[place] = row
        return found

    def run(self, questions: Sequence[Question]) -> list[Answered]:
        """Return the examples of each question, with the model's outputs for each; none where the
        question gives the model nothing to read."""
        encoded = self.encode(questions)
        flat = [example for examples in encoded for example in examples]
        outputs = iter(self.outputs_of(flat))
        return [[(example, next(outputs)) for example in examples] for examples in encoded]

    def answers(self, questions: Sequence[Question], top_k: int | None = None) -> list[Any]:
        """Return one answer for each question, in the shape of the task's Hugging Face pipeline."""
        return self.respond(questions, self.run(questions), top_k)

    def respond(
        self, questions: Sequence[Question], found: Sequence[Answered], top_k: int | None = None
    ) -> list[Any]:
        """Return one answer for each question, from the outputs that `run` gave."""
        return self.task.answers(self.setup, questions, found, top_k)

    def outcomes(self, questions: Sequence[Question]) -> list[Outcome | None]:
        found = self.run(questions)
        read = [place for place, answered in enumerate(found) if answered]
        answers = self.respond([questions[p] for p in read], [found[p] for p in read])
        outcomes: list[Outcome | None] = [None] * len(questions)
        for place, answer in zip(read, answers, strict=True):
            shares = self._numbers(found[place]).tolist() if self.info.kind.has_labels else None
            outcomes[place] = Outcome(self.task.outcome(answer), shares)
        return outcomes

    def golden(self, questions: Sequence[Question]) -> tuple[Golden, ...]:
        """Return the golden answers: the largest numbers of each answer."""
        return tuple(
            self._golden(question, answered)
            for question, answered in zip(questions, self.run(questions), strict=True)
            if answered
        )

    def _golden(self, question: Question, answered: Answered) -> Golden:
        numbers, places = self._numbers(answered), np.empty(0, np.int64)
        if len(numbers) > _GOLDEN_NUMBERS:
            places = np.argsort(-np.abs(numbers), kind="stable")[:_GOLDEN_NUMBERS]
            numbers = numbers[places]
        return Golden(
            input=as_json(question), numbers=tuple(numbers.tolist()), places=tuple(places.tolist())
        )

    def replayed(self, golden: Sequence[Golden]) -> list[list[float]]:
        found = self.run([self.question_of(item) for item in golden])
        rows = [self._numbers(answered) for answered in found]
        return [
            (row[list(item.places)] if item.places else row).tolist()
            for row, item in zip(rows, golden, strict=True)
        ]

    def _numbers(self, answered: Answered) -> np.ndarray:
        return np.concatenate(
            [np.empty(0), *(self.task.numbers(outputs, self.setup) for _, outputs in answered)]
        )


def each_of(outputs: Outputs) -> list[Outputs]:
    """Return the outputs of each example of a batch, float32 on the CPU."""
    names = list(outputs)
    parts = (outputs[name].float().cpu().unbind() for name in names)
    return [dict(zip(names, row, strict=True)) for row in zip(*parts, strict=True)]
