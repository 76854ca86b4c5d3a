"""Results of the base model before any training, for tasks whose loss compares the trained model
with it: see `BaseTask.from_base`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ftray.cluster.device import own_device
from ftray.models.inference.measure import InMemory, Split, batches_in_order
from ftray.models.limits import load_fitting
from ftray.models.pretrained import find_pretrained
from ftray.models.structure.placing import placed
from ftray.spec.schema import Spec
from ftray.tasks import Task, get_task
from ftray.tasks.base import Outputs, TaskSetup
from ftray.tasks.features import Batch, Examples
from ftray.tasks.metrics import ALONE, Group

Columns = Mapping[str, np.ndarray]
"""Feature -> its value of each example, (examples, ...) float32."""


def computed(
    forward: Callable[[Batch], Outputs],
    batches: Iterable[tuple[np.ndarray, Batch]],
    split: Split,
    task: Task,
    setup: TaskSetup,
    ranks: Group = ALONE,
) -> dict[str, np.ndarray]:
    """Return the features `task.from_base` of all examples of a split. Every one of `ranks` must
    call this function, each with its own part of the batches. forward: of the base model; batches:
    as for `gather`."""
    features, count = task.features(setup), len(split.lengths)
    found = {name: np.zeros((count, *(features[name].shape or ()))) for name in task.from_base}
    with torch.no_grad():
        for places, batch in batches:
            outputs = forward(batch)
            if not len(places):
                continue
            for name, values in task.base_targets(outputs, batch).items():
                found[name][places] = values.double().cpu().numpy()
    return {name: ranks.sum(values).astype(np.float32) for name, values in found.items()}


def given_by(
    model: Any,
    task: Task,
    setup: TaskSetup,
    split: Split,
    device: torch.device,
    size: int,
    ranks: Group = ALONE,
) -> dict[str, np.ndarray]:
    """Return the features `task.from_base` of all examples of a split, by a base model in eval
    mode. Arguments as in `measure`."""
    batches = batches_in_order(model, task, setup, split, device, size, ranks)
    return computed(lambda b: task.forward(model, b.inputs), batches, split, task, setup, ranks)


def compared(examples: Examples, spec: Spec, setup: TaskSetup, size: int) -> Examples:
    """Return examples with their features `from_base`, for which this function loads the base model
    of the spec. Raises ModelError."""
    task = get_task(spec.task)
    if not task.from_base:
        return examples
    loaded = load_fitting(find_pretrained(spec.model, setup.schema), spec, setup.schema)
    split, device = InMemory(examples, task, setup), own_device()
    model = loaded.model.eval()
    with placed(model, device):
        found = given_by(model, task, setup, split, device, size)
    columns = {name: list(values) for name, values in found.items()}
    return replace(examples, features={**examples.features, **columns})
