"""The one evaluation loop: measures a model on examples, batch by batch, on one rank or on many."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from ftray.tasks import Task
from ftray.tasks.base import Judged, Metrics, Outputs, TaskSetup
from ftray.tasks.features import Batch, Example, Examples, cost
from ftray.tasks.metrics import ALONE, Gathered, Group, Totals
from ftray.tasks.per_label import most_confused

MOST_LOGITS = 2**26
"""Most logits of one pass of a language model, which has one logit for each token of a row and
each vocabulary entry: 256 MB in fp32, of which several copies exist."""


class Split(Protocol):
    """Examples to measure a model on. lengths: cost of each example; rows: number of the row that
    each example was made of."""

    @property
    def lengths(self) -> np.ndarray: ...

    @property
    def rows(self) -> np.ndarray: ...

    def examples(self, places: Iterable[int]) -> list[Example]: ...


class InMemory:
    """A split of examples that lie in memory."""

    def __init__(self, examples: Examples, task: Task, setup: TaskSetup) -> None:
        features = task.features(setup)
        self._examples = examples.each()
        self.rows = np.array(examples.rows, dtype=np.int64)
        self.lengths = np.array([cost(each, features) for each in self._examples], dtype=np.int64)

    def examples(self, places: Iterable[int]) -> list[Example]:
        return [self._examples[place] for place in places]


@dataclass(frozen=True)
class Measured:
    """The metrics of a model on a split; the prediction for each example beside its answer, none
    where the task does not judge examples one by one; and the states that the metrics are of."""

    metrics: Metrics
    judged: tuple[Judged, ...]
    gathered: Gathered

    @property
    def predicted(self) -> np.ndarray:
        """Predictions, for a task with labels: (examples,) indices of labels."""
        return np.array([each.prediction for each in self.judged], dtype=np.int64)

    @property
    def truth(self) -> np.ndarray:
        """Right answers, for a task with labels: (examples,) indices of labels."""
        return np.array([each.truth for each in self.judged], dtype=np.int64)


def evaluate(
    forward: Callable[[Batch], Outputs],
    batches: Iterable[tuple[np.ndarray, Batch]],
    split: Split,
    task: Task,
    setup: TaskSetup,
    ranks: Group = ALONE,
) -> Metrics:
    """Return the metrics of all examples of `split`; arguments as in `gather`."""
    found = gather(forward, batches, split, task, setup, ranks)
    return task.metrics(found, setup.schema)


def gather(
    forward: Callable[[Batch], Outputs],
    batches: Iterable[tuple[np.ndarray, Batch]],
    split: Split,
    task: Task,
    setup: TaskSetup,
    ranks: Group = ALONE,
    judge: Callable[[np.ndarray, Sequence[Judged]], None] | None = None,
) -> Gathered:
    """Return the metric states of all examples of `split`. Every one of `ranks` must call this
    function, each with its own part of the batches.

    batches: (places in the split, batch on the model's device); a batch without places takes part
    in the forward pass alone. judge: receives the places and the judged examples of each batch.
    """
    totals = Totals()
    with torch.no_grad():
        for places, batch in batches:
            outputs = forward(batch)
            if not len(places):
                continue
            totals.add(places, task.metric_state(outputs, batch, setup))
            if judge is not None:
                judge(places, task.judge(outputs, batch, setup))
    return totals.gathered(task.empty_state(setup.schema), split.rows, ranks)


def measure(
    model: Any,
    task: Task,
    setup: TaskSetup,
    split: Split,
    device: torch.device,
    size: int,
    ranks: Group = ALONE,
) -> Measured:
    """Measure a model in eval mode, and judge each example. Adds the commonest mistakes
    (`confused`) to the metrics where rows have labels. size: most examples of one pass.

    Every one of `ranks` must call this function, with its own copy of the model, and gets the
    whole result.
    """
    judged: dict[int, Judged] = {}

    def note(places: np.ndarray, found: Sequence[Judged]) -> None:
        judged.update(zip(places.tolist(), found, strict=False))

    with torch.inference_mode():
        gathered = gather(
            lambda batch: task.infer(model, batch.inputs, setup),
            batches_in_order(model, task, setup, split, device, size, ranks),
            split,
            task,
            setup,
            ranks,
            note,
        )
    found = {place: each for part in ranks.gather(judged) for place, each in part.items()}
    metrics = task.metrics(gathered, setup.schema)
    measured = Measured(metrics, tuple(found[place] for place in sorted(found)), gathered)
    if not task.info.has_labels:
        return measured
    confused = most_confused(measured.truth, measured.predicted, setup.labels)
    return replace(measured, metrics={**metrics, "confused": confused})


def batches_in_order(
    model: Any,
    task: Task,
    setup: TaskSetup,
    split: Split,
    device: torch.device,
    size: int,
    ranks: Group,
) -> Iterator[tuple[np.ndarray, Batch]]:
    """Yield this rank's batches in a pass over a split, each with the places of its examples.
    Arguments as in `measure`."""
    words = model.get_input_embeddings().num_embeddings if task.info.finds_tokens else 0
    most = MOST_LOGITS / words if words else math.inf
    for places in in_order(split.lengths, size, ranks.rank, ranks.world, most):
        # A rank without examples still runs its forward pass, as sharded weights need.
        used = places if len(places) else [int(split.lengths.argmin())]
        yield places, task.collate(setup, split.examples(used)).to(device)


def in_order(
    lengths: np.ndarray, size: int, rank: int, workers: int, most: float = math.inf
) -> list[np.ndarray]:
    """Return the row indices of this rank's batches in a pass over all rows, by length.

    A batch has at most `size` rows, and at most `most` tokens with padding unless it has one row.
    All ranks get the same number of batches, as sharded weights need; some may be empty.
    """
    order = np.argsort(lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        stop = start + 1
        while (
            stop < min(len(order), start + size)
            and (stop + 1 - start) * lengths[order[stop]] <= most
        ):
            stop += 1
        batches.append(order[start:stop])
        start = stop
    batches += [order[:0]] * (-len(batches) % workers)
    return batches[rank::workers]
