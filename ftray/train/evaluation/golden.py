"""Chooses the golden questions of a model folder.

The folder stores the model's answers to these questions. A service compares its own answers with
them to verify that it runs the same model.
"""

from __future__ import annotations

import numpy as np

from ftray.data.encoding.encode import SAMPLES
from ftray.data.encoding.encoded import EncodedDataset
from ftray.spec.schema import Spec
from ftray.tasks import get_task
from ftray.tasks.base import Question, TaskSetup, from_json

_LARGEST = 64
"""Largest size of a made-up question, in tokens for texts."""


def golden_questions(spec: Spec, data: EncodedDataset, setup: TaskSetup) -> list[Question]:
    """Return the golden questions that export.golden selects: rows of the test split, made-up
    questions, or none."""
    if spec.export.golden == "off":
        return []
    inputs = spec.info.inputs((*spec.columns, *spec.data.columns.flags), setup.schema.fields)
    if spec.export.golden == "rows":
        return [from_json(sample, inputs) for sample in data.samples]
    sizes = np.linspace(1, min(_LARGEST, spec.data.max_length), SAMPLES, dtype=int)
    draw, task = np.random.default_rng(spec.seed), get_task(spec.task)
    return [task.made_up(setup, inputs, int(size), draw) for size in sizes]
