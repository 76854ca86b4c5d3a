"""The one evaluation loop: measures a model on examples, batch by batch, on one rank or on many."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

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
MOST_SHARES = 2**24
"""Most probabilities of labels that are kept of a split: 32 MB."""


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


class Part:
    """The examples of a split at some places."""

    def __init__(self, split: Split, places: np.ndarray) -> None:
        self._split, self._places = split, places
        self.rows, self.lengths = split.rows[places], split.lengths[places]

    def examples(self, places: Iterable[int]) -> list[Example]:
        return self._split.examples(self._places[list(places)].tolist())


class Details(NamedTuple):
    """A model's results for each example of a split. losses: (examples,) float32, as
    `BaseTask.losses`; shares: (examples, C) float16, as `BaseTask.shares`, None where there are
    none or more than `MOST_SHARES`."""

    losses: np.ndarray
    shares: np.ndarray | None


@dataclass(frozen=True)
class Measured:
    """The metrics of a model on a split; the prediction for each example beside its answer, none
    where the task does not judge examples one by one; and the states that the metrics are of."""

    metrics: Metrics
    judged: tuple[Judged, ...]
    gathered: Gathered
    details: Details | None = None

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
    each: Callable[[np.ndarray, Outputs, Batch], None] | None = None,
) -> Gathered:
    """Return the metric states of all examples of `split`. Every one of `ranks` must call this
    function, each with its own part of the batches.

    batches: (places in the split, batch on the model's device); a batch without places takes part
    in the forward pass alone. each: receives the places, the outputs and the batch of each pass.
    """
    totals = Totals()
    with torch.no_grad():
        for places, batch in batches:
            outputs = forward(batch)
            if not len(places):
                continue
            totals.add(places, task.metric_state(outputs, batch, setup))
            if each is not None:
                each(places, outputs, batch)
    return totals.gathered(task.empty_state(setup.schema), split.rows, ranks)


def measure(
    model: Any,
    task: Task,
    setup: TaskSetup,
    split: Split,
    device: torch.device,
    size: int,
    ranks: Group = ALONE,
    detailed: bool = False,
) -> Measured:
    """Measure a model in eval mode, and judge each example. Adds the commonest mistakes
    (`confused`) to the metrics where rows have labels. size: most examples of one pass; detailed:
    whether to keep the details of each example, which exist where the loss does not couple rows.

    Every one of `ranks` must call this function, with its own copy of the model, and gets the
    whole result.
    """
    notes = _Notes(task, setup, len(split.lengths), detailed)

    with torch.inference_mode():
        gathered = gather(
            lambda batch: task.infer(model, batch.inputs, setup),
            batches_in_order(model, task, setup, split, device, size, ranks),
            split,
            task,
            setup,
            ranks,
            notes,
        )
    judged, details = notes.gathered(ranks)
    measured = Measured(task.metrics(gathered, setup.schema), judged, gathered, details)
    if not task.info.has_labels:
        return measured
    confused = most_confused(measured.truth, measured.predicted, setup.labels)
    return replace(measured, metrics={**measured.metrics, "confused": confused})


class _Notes:
    """Collects a rank's results for each example, by the example's place in the split."""

    def __init__(self, task: Task, setup: TaskSetup, examples: int, detailed: bool) -> None:
        self._task, self._setup = task, setup
        self._detailed = detailed and not task.info.couples_rows
        self._few = examples * setup.schema.width <= MOST_SHARES
        self._judged: dict[int, Judged] = {}
        self._losses: dict[int, float] = {}
        self._shares: dict[int, np.ndarray] = {}

    def __call__(self, places: np.ndarray, outputs: Outputs, batch: Batch) -> None:
        at, task = places.tolist(), self._task
        self._judged.update(zip(at, task.judge(outputs, batch, self._setup), strict=False))
        if not self._detailed:
            return
        self._losses.update(zip(at, task.losses(outputs, batch).tolist(), strict=True))
        if self._few and (found := task.shares(outputs, self._setup)) is not None:
            self._shares.update(zip(at, found.half().cpu().numpy(), strict=True))

    def gathered(self, ranks: Group) -> tuple[tuple[Judged, ...], Details | None]:
        """Return the notes of all ranks, in the order of the split."""
        judged, losses, shares = (
            _ordered(ranks.gather(part)) for part in (self._judged, self._losses, self._shares)
        )
        if not self._detailed:
            return tuple(judged), None
        return tuple(judged), Details(
            np.array(losses, np.float32), np.stack(shares) if shares else None
        )


def _ordered(parts: Iterable[dict[int, Any]]) -> list[Any]:
    found = {place: value for part in parts for place, value in part.items()}
    return [found[place] for place in sorted(found)]


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
