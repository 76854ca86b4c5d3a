"""The training loop. It knows neither Ray nor Tune: it is given its ranks and a `report`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ftray.data.batches import BatchPlan, in_order
from ftray.data.encode import EncodedSplit
from ftray.errors import RunFailed
from ftray.spec.schema import Spec
from ftray.tasks import Task
from ftray.tasks.base import Metrics
from ftray.train import state
from ftray.train.engine import Engine
from ftray.train.progress import Progress
from ftray.train.schedule import learning_rate

Save = Callable[[Path], None]
"""Writes the resume state into a folder, on rank 0. Every rank must call it, or none."""

Report = Callable[[dict[str, Any], Save], None]
"""Called by every rank after each epoch with its metrics; may save a checkpoint."""

Notify = Callable[[dict[str, Any]], None]
"""Called after each step: {step, steps, epoch, loss, learning_rate, rows, seconds}."""


@dataclass(frozen=True)
class Setup:
    """Everything a run needs, built and in place."""

    spec: Spec
    task: Task
    engine: Engine
    train: EncodedSplit
    validation: EncodedSplit
    labels: tuple[str, ...]
    pad_id: int
    batches: BatchPlan

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.spec.train.epochs * self.batches.steps_per_epoch


def run(setup: Setup, progress: Progress, report: Report, notify: Notify) -> Progress:
    """Train from where `progress` stands to the last epoch or an early stop.

    Raises RunFailed on every rank when a loss is not finite, before the weights take it in.
    """
    while not progress.is_over(setup.spec.train):
        train_loss = _train_epoch(setup, progress, notify)
        metrics = evaluate(setup, setup.validation)
        progress.finish_epoch(setup.spec.train, {**metrics, "train_loss": train_loss})
        numbers = {k: v for k, v in progress.history[-1].items() if isinstance(v, (int, float))}
        report(numbers, partial(state.save, setup.engine, progress.to_json()))
    return progress


def evaluate(setup: Setup, split: EncodedSplit) -> Metrics:
    """Metrics over all rows of `split`, the same on every rank."""
    engine, task, ranks = setup.engine, setup.task, setup.engine.ranks
    engine.eval_mode()
    classes = len(setup.labels)
    tally = np.zeros_like(task.tally(torch.zeros(1, classes), torch.zeros(1, dtype=torch.long)))
    size = 2 * setup.batches.micro_batch_size
    mine = in_order(split.lengths, size, ranks.rank, ranks.world)
    # ZeRO 3 gathers weights in every forward pass, so all ranks make equally many.
    most = math.ceil(math.ceil(len(split.lengths) / size) / ranks.world)
    with torch.no_grad():
        for rows in [*mine, *[split.empty] * (most - len(mine))]:
            logits = engine.logits(_inputs(setup, split, rows))[: len(rows)]
            if len(rows):
                targets = torch.from_numpy(split.targets[rows]).to(logits.device)
                tally += task.tally(logits, targets)
    engine.train_mode()
    return task.metrics(ranks.sum(tally), setup.labels)


def _train_epoch(setup: Setup, progress: Progress, notify: Notify) -> float:
    """One pass over the training rows; returns their mean loss."""
    total = 0.0
    rows = 0
    for batch in setup.batches.batches(progress.epoch):
        started = time.perf_counter()
        rate = learning_rate(setup.spec.train, progress.step, setup.steps)
        loss = _step(setup, progress, batch, rate)
        progress.step += 1
        total += loss * len(batch)
        rows += len(batch)
        notify(
            {
                "step": progress.step,
                "steps": setup.steps,
                "epoch": progress.epoch + 1,
                "loss": loss,
                "learning_rate": rate,
                "rows": len(batch),
                "seconds": time.perf_counter() - started,
            }
        )
    return total / rows


def _step(setup: Setup, progress: Progress, batch: np.ndarray, rate: float) -> float:
    """One optimizer step on a global batch; returns its mean loss over all ranks' rows."""
    engine, ranks = setup.engine, setup.engine.ranks
    total = 0.0
    for number, rows in setup.batches.chunks(batch, ranks.rank, ranks.world):
        # Dropout depends on where in the run a chunk stands, not on which rank computes it.
        torch.manual_seed(_chunk_seed(setup.spec.seed, progress.step, number))
        logits = engine.logits(_inputs(setup, setup.train, rows))
        if len(rows):
            targets = torch.from_numpy(setup.train.targets[rows]).to(logits.device)
            loss = setup.task.losses(logits, targets).sum()
        else:
            loss = logits.sum() * 0.0
        total += loss.item()
        # DeepSpeed averages gradients over ranks; the mean over the batch's rows is wanted.
        engine.accumulate(loss * (ranks.world / len(batch)))
    mean = float(ranks.sum(np.array([total]))[0]) / len(batch)
    if not math.isfinite(mean):
        raise RunFailed.of(
            "train.learning_rate",
            setup.spec.train.learning_rate,
            f"the loss of step {progress.step + 1} (epoch {progress.epoch + 1}) is {mean}: the run "
            "diverged and was stopped before the weights took it in",
            "lower train.learning_rate, raise train.warmup, or set train.clip",
        )
    engine.update(rate)
    return mean


def _inputs(setup: Setup, split: EncodedSplit, rows: np.ndarray) -> dict[str, torch.Tensor]:
    # A rank without rows still runs its forward pass: one padding token stands in.
    ids = [split.ids_of(row) for row in rows] if len(rows) else [[setup.pad_id]]
    return setup.task.collate(ids, setup.pad_id)


def _chunk_seed(seed: int, step: int, chunk: int) -> int:
    return int(np.random.SeedSequence([seed, step, chunk]).generate_state(1, np.uint64)[0] >> 1)
