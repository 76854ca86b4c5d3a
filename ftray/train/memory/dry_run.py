"""Finds errors that a run's workers would raise, without Ray and without weights.

The model is built from its config on torch's meta device: its tensors have shapes but no values.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import torch

from ftray.errors import FtrayError
from ftray.models.limits import setup_of
from ftray.models.pretrained import Pretrained, described
from ftray.models.structure.groups import block_lines
from ftray.models.structure.quantized import check_quantizable
from ftray.models.transformers_output import quiet_transformers
from ftray.spec.load import override
from ftray.spec.schema import Spec, micro_batch_size
from ftray.tasks import get_task
from ftray.tasks.base import TaskSetup
from ftray.tasks.schema import Schema
from ftray.train.distributed.context import DistContext
from ftray.train.engine import lora
from ftray.train.engine.deepspeed_config import deepspeed_config
from ftray.train.plan import plan_training

_DECIDING = (
    *("train.unfreeze", "train.lora", "train.groups", "train.dropout", "train.layer_decay"),
    "train.weights",
)
"""Keys whose values must suit the model."""
_TOKENS = 6


def dry_run(spec: Spec, schema: Schema) -> list[str]:
    """Return lines for people about the model's blocks, and those that train.

    Raises FtrayError, as a run's workers would, where the base model cannot be loaded or lacks
    something that the spec names: blocks, parameters, layers to adapt, dropouts. Each value of a
    search space is tried too.
    """
    with quiet_transformers(), described(spec.model, schema) as pretrained:
        setup = setup_of(pretrained, spec, schema)
        if pretrained.is_whole:
            pretrained.check_weights()
        lines = _try(spec, pretrained, setup)
        for path, variant in _variants(spec):
            try:
                _try(variant, pretrained, setup)
            except FtrayError as error:
                found = [
                    replace(problem, key=problem.key.replace(path, f"tune.space.{path}"))
                    for problem in error.problems
                ]
                raise type(error)(*found) from None
    return lines


def _variants(spec: Spec) -> Iterator[tuple[str, Spec]]:
    """Yield (key, spec with one value) for each value of each `_DECIDING` key in the search space;
    for a range, its bounds."""
    space = spec.tune.space if spec.tune else {}
    alone = spec.model_copy(update={"tune": None})
    for path, domain in space.items():
        if path.startswith(_DECIDING):
            for value in domain.values:
                yield path, override(alone, {path: value})


def _try(spec: Spec, pretrained: Pretrained, setup: TaskSetup) -> list[str]:
    train, task = spec.train, get_task(spec.task)
    size, workers = micro_batch_size(spec, spec.scale.most_workers), spec.scale.most_workers
    deepspeed_config(train, size, -(-train.batch_size // (size * workers)), workers)
    if train.dropout is not None:
        pretrained.dropouts(train.dropout)
    with torch.device("meta"):
        model = pretrained.empty_model(task, setup.schema)
        if train.weights == "nf4":
            check_quantizable(model)
        if train.lora is not None:
            lora.inject(model, spec)
    inputs = task.collate(setup, [task.dummy(setup, _TOKENS)]).inputs
    # plan_training raises errors about missing parts before the forward pass. The forward pass of
    # some models reads tensor values, which meta tensors do not have: a RuntimeError is no fault.
    with suppress(RuntimeError):
        plan = plan_training(model, train, inputs, DistContext(0, 1, torch.device("cpu")))
        return list(block_lines(model, plan.largest.trainable))
    return []
