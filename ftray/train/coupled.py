"""The gradient of a loss that couples the rows of a batch: that of a contrastive loss.

Such a loss is a function of the outputs of all examples of the global batch, and outputs are small.
Every rank gets those of all ranks, and computes the loss and its gradient with regard to them. The
backward passes of its micro-batches begin with this gradient (GradCache, Gao et al. 2021), so that
nothing but rounding depends on the number of ranks and the size of micro-batches.

A rank with one micro-batch in a step computes it once; with several, each is computed twice, the
first time without a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from ftray.tasks import Task
from ftray.tasks.base import Outputs
from ftray.tasks.features import Batch
from ftray.train.engine.deepspeed import Engine


class Chunk(NamedTuple):
    """A micro-batch. rows: its examples in the split, none where it only takes part; seed: seeds
    the random generators for its forward pass."""

    rows: np.ndarray
    batch: Batch
    seed: Callable[[], None]


def backward(
    engine: Engine,
    task: Task,
    examples: np.ndarray,
    chunks: Sequence[Chunk],
    smoothing: float,
    weight: float,
) -> list[torch.Tensor]:
    """Run the forward and backward passes of one step on this rank. Returns the sum of the losses
    of each chunk's examples. Every rank must call this function, with as many chunks.

    examples: of the global batch, the same on every rank; weight: what the sum of the losses is
    divided by.
    """
    order = np.sort(examples)
    places = [torch.from_numpy(np.searchsorted(order, chunk.rows)) for chunk in chunks]
    places = [at.to(engine.ranks.device) for at in places]
    once = len(chunks) == 1
    found = [_outputs(engine, chunk, with_graph=once) for chunk in chunks]

    def whole(parts: Iterator[torch.Tensor]) -> torch.Tensor:
        with engine.timer("reduce"):
            return engine.ranks.assembled(list(parts), places, len(order))

    targets = {
        name: whole(chunk.batch.targets[name][: len(chunk.rows)] for chunk in chunks)
        for name in chunks[0].batch.targets
    }
    leaves = {
        name: whole(
            outputs[name].detach()[: len(chunk.rows)]
            for chunk, outputs in zip(chunks, found, strict=True)
        ).requires_grad_()
        for name in task.outputs
    }
    losses = task.losses(leaves, Batch({}, targets), smoothing)
    total = losses.sum()
    # Where the loss is not finite, all gradients become NaN, so that the engine takes no step.
    barred = torch.where(torch.isfinite(total.detach()), 1 / weight, torch.nan)
    slopes = torch.autograd.grad(total * barred, list(leaves.values()))
    for chunk, outputs, at in zip(chunks, found, places, strict=True):
        if not once:
            outputs = _outputs(engine, chunk, with_graph=True)
        with engine.timer("backward"):
            engine.accumulate(_towards(task, outputs, dict(zip(leaves, slopes, strict=True)), at))
    return [losses.detach()[at].double().sum() for at in places]


def _outputs(engine: Engine, chunk: Chunk, with_graph: bool) -> Outputs:
    chunk.seed()
    with torch.set_grad_enabled(with_graph), engine.timer("forward"):
        return engine.outputs(chunk.batch)


def _towards(task: Task, outputs: Outputs, slopes: Outputs, places: torch.Tensor) -> torch.Tensor:
    """Return a scalar whose gradient with regard to the outputs of a chunk is that of the loss."""
    if not len(places):
        return task.probe_loss(outputs) * 0.0
    each = [(outputs[name][: len(places)] * slopes[name][places]).sum() for name in slopes]
    return torch.stack(each).sum()
