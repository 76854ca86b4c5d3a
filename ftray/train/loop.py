"""The training loop of one rank, independent of Ray and Tune.

The caller passes in the process group (DistContext) and an Observer that receives the events.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch

from ftray.data.encoding.encode import EncodedSplit
from ftray.errors import Interrupted, NotTrainable
from ftray.models.inference import measure
from ftray.tasks.base import Metrics, Outputs
from ftray.tasks.features import Batch
from ftray.train.checkpoint.manager import CheckpointManager
from ftray.train.context import TrainContext
from ftray.train.coupled import Chunk, backward
from ftray.train.distributed.context import DistContext
from ftray.train.distributed.feed import feed
from ftray.train.engine.schedule import learning_rate
from ftray.train.progress import BEST, Progress

_SHOWN_ROWS = 8


class Observer(Protocol):
    """Receives the loop's events on every rank, and tells the loop whether to stop."""

    def phase(self, progress: Progress) -> None:
        """Called when the set of trainable parameters changes: at the start of the run, and where a
        phase of the schedule begins."""

    def step(self, event: dict[str, Any]) -> None:
        """Called after each step with {step, steps, epoch, loss, learning_rate, rows, seconds,
        phases, mfu}; phases: seconds of each phase of the step on this rank; mfu: the share of the
        devices' peak FLOP/s, where it is known."""

    def epoch(self, metrics: dict[str, Any]) -> None:
        """Called after each evaluation with its metrics. An implementation may be a barrier."""

    def alive(self) -> None:
        """Called before each forward pass."""

    def warn(self, line: str) -> None:
        """Show the user a warning about the run: `line` is one sentence."""

    def stopping(self) -> bool:
        """Whether this rank was asked to save and end."""
        ...


def run(
    setup: TrainContext,
    progress: Progress,
    keeper: CheckpointManager,
    observer: Observer,
    until: int | None = None,
) -> Progress:
    """Train from the position in `progress` to the last epoch, an early stop, or the end of epoch
    `until` (counted from 1). A run that ends at `until` leaves a checkpoint; a later call that
    resumes from this checkpoint continues as if training had not stopped.

    Every rank raises the same error: NotTrainable when a loss or a gradient is not finite, before
    the optimizer updates the weights with it; Interrupted when any rank was asked to stop, after a
    last checkpoint.
    """
    observer.phase(progress)
    while not progress.is_over(setup.spec.train, until):
        if setup.phased.enter(progress.epoch):
            observer.phase(progress)
        _train_epoch(setup, progress, keeper, observer)
        metrics = evaluate(setup, setup.validation, observer)
        progress.finish_epoch(setup.spec.train, metrics)
        _save(setup, progress, keeper, progress.rank(), progress.score(setup.spec.train))
        numbers = {k: v for k, v in progress.history[-1].items() if isinstance(v, (int, float))}
        observer.epoch({**numbers, BEST: progress.best})
    keeper.wait()
    if progress.is_over(setup.spec.train) and (line := progress.overfitting()):
        observer.warn(line)
    return progress


def evaluate(setup: TrainContext, split: EncodedSplit, observer: Observer) -> Metrics:
    """Compute the metrics over all rows of `split`; every rank returns the same values."""
    engine, ranks = setup.engine, setup.engine.ranks
    engine.eval_mode()

    def forward(batch: Batch) -> Outputs:
        observer.alive()
        return engine.outputs(batch)

    metrics = measure.evaluate(
        forward, setup.passes(split), split, setup.task, setup.task_setup, ranks
    )
    engine.train_mode()
    return metrics


def _train_epoch(
    setup: TrainContext, progress: Progress, keeper: CheckpointManager, observer: Observer
) -> None:
    """Run the remaining optimizer steps of the current epoch."""
    done = progress.step - progress.epoch * setup.batches.steps_per_epoch
    left = setup.batches.batches(progress.epoch)[done:]
    fed = _fed(setup, left, progress.step)
    for batch in left:
        started = time.perf_counter()
        rate = learning_rate(setup.spec.train, progress.step, setup.steps)
        wishes = (observer.stopping(), keeper.due(progress.step + 1))
        loss, (stops, saves) = _step(setup, progress, batch, fed, rate, wishes, observer)
        progress.finish_step(loss, len(batch))
        seconds = time.perf_counter() - started
        observer.step(
            {
                "step": progress.step,
                "steps": setup.steps,
                "epoch": progress.epoch + 1,
                "loss": loss,
                "learning_rate": rate,
                "rows": len(batch),
                "seconds": seconds,
                "phases": setup.engine.timer.taken(),
                **setup.utilization(batch, seconds),
            }
        )
        if stops or saves:
            _save(setup, progress, keeper)
        if stops:
            keeper.wait()
            raise Interrupted.of(
                "run",
                setup.spec.name,
                f"interrupted after step {progress.step} of {setup.steps}",
                "the same command goes on from there",
            )


def _save(
    setup: TrainContext,
    progress: Progress,
    keeper: CheckpointManager,
    rank: float = -1.0,
    score: float | None = None,
) -> None:
    if keeper.keeps:
        keeper.save(setup.phased.snapshot(keeper.share), progress, rank, score)


def _step(
    setup: TrainContext,
    progress: Progress,
    batch: np.ndarray,
    fed: Iterator[Batch],
    rate: float,
    wishes: Sequence[bool],
    observer: Observer,
) -> tuple[float, list[bool]]:
    """Run one optimizer step on the global batch `batch`.

    `fed` yields the inputs of this rank's micro-batches next. Returns the mean loss over all loss
    terms of the global batch (all ranks), and for each of `wishes` whether any rank has it set.
    """
    engine, ranks, timer = setup.engine, setup.engine.ranks, setup.engine.timer
    # Total loss weight of the global batch. Every rank knows the whole batch and divides by its
    # total, as the parts of the batch on the ranks may differ in weight.
    weight = float(_weights(setup, batch).sum())
    run = _coupled if setup.task.info.couples_rows else _passes
    losses = run(setup, progress, batch, fed, weight, observer)
    with timer("update"):
        norm = engine.gradient_norm()
    with timer("waiting"):
        total, *told = _told(ranks, [loss for _, loss in losses], wishes, norm)
    mean = total / weight
    may_skip = progress.skipped < setup.spec.train.skip_nonfinite
    if not math.isfinite(mean) and not may_skip:
        broken = [row for rows, loss in losses if not loss.isfinite() for row in rows.tolist()]
        _fail(setup, progress, f"the loss is {mean}", broken)
    with timer("update"):
        applied = engine.update(rate, None if norm is None else told.pop())
    if applied:
        setup.phased.check_moved()
    else:
        if not may_skip:
            rows = np.concatenate([r for _, r in _mine(setup, batch)] or [batch[:0]])
            _fail(setup, progress, "the gradient is not finite", rows.tolist())
        progress.skipped += 1
    return mean, [answer > 0 for answer in told]


Losses = list[tuple[np.ndarray, torch.Tensor]]
"""The rows of each micro-batch of this rank, and the sum of their losses."""


def _passes(
    setup: TrainContext,
    progress: Progress,
    batch: np.ndarray,
    fed: Iterator[Batch],
    weight: float,
    observer: Observer,
) -> Losses:
    """Run the forward and the backward pass of each micro-batch of this rank."""
    losses: Losses = []
    timer = setup.engine.timer
    for number, rows in _mine(setup, batch):
        observer.alive()
        _seed(setup.spec.seed, progress.step, number)
        inputs = _taken(setup, fed)
        with timer("forward"):
            loss = _loss(setup, inputs, rows)
        losses.append((rows, loss.detach().double()))
        with timer("backward"):
            setup.engine.accumulate(_barred(loss) / weight)
    return losses


def _coupled(
    setup: TrainContext,
    progress: Progress,
    batch: np.ndarray,
    fed: Iterator[Batch],
    weight: float,
    observer: Observer,
) -> Losses:
    """Run the passes of this rank's micro-batches for a loss that is one of the whole batch."""
    observer.alive()
    engine, mine = setup.engine, _mine(setup, batch)
    chunks = [
        Chunk(
            rows,
            _taken(setup, fed),
            partial(_seed, setup.spec.seed, progress.step, number),
        )
        for number, rows in mine
    ]
    smoothing = setup.spec.train.label_smoothing
    found = backward(engine, setup.task, batch, chunks, smoothing, weight)
    return [(rows, loss) for (_, rows), loss in zip(mine, found, strict=True)]


def _taken(setup: TrainContext, fed: Iterator[Batch]) -> Batch:
    """Return the next batch, on the device."""
    with setup.engine.timer("data"):
        return next(fed).to(setup.engine.ranks.device)


def _barred(loss: torch.Tensor) -> torch.Tensor:
    """Return `loss` with a backward pass that makes all gradients NaN where `loss` is not finite.
    The check of the gradients then prevents the update, and the host need not wait for the device
    to read the loss first."""
    return loss * torch.where(torch.isfinite(loss.detach()), 1.0, math.nan)


def _told(
    ranks: DistContext,
    losses: Sequence[torch.Tensor],
    wishes: Sequence[bool],
    norm: torch.Tensor | None,
) -> list[float]:
    """Return [sum of `losses` over all ranks, number of ranks that have each wish set, `norm`].
    This all-reduce is the one point in a step where the host waits for the device."""
    asked = torch.tensor(wishes, dtype=torch.float64).to(losses[0].device, non_blocking=True)
    total = torch.zeros_like(losses[0])
    for loss in losses:
        total = total + loss
    own = asked[:0] if norm is None else norm.detach().double()[None]
    return ranks.totals(torch.cat([total[None], asked]), own)


def _weights(setup: TrainContext, batch: np.ndarray) -> np.ndarray:
    """Return the weight of each row's loss in the mean over the batch: (B,)."""
    if setup.row_weights is not None:
        return setup.row_weights[batch]
    return setup.terms[batch]


def _loss(setup: TrainContext, batch: Batch, rows: np.ndarray) -> torch.Tensor:
    """Return the weighted sum of the rows' losses: a scalar, 0 for an empty micro-batch."""
    if not len(rows):
        return setup.task.probe_loss(setup.engine.outputs(batch)) * 0.0
    losses = setup.engine.losses(batch, setup.spec.train.label_smoothing)
    if setup.row_weights is None:
        return losses.sum()
    return (losses * torch.from_numpy(setup.row_weights[rows]).to(losses)).sum()


def _mine(setup: TrainContext, batch: np.ndarray) -> list[tuple[int, np.ndarray]]:
    ranks = setup.engine.ranks
    return setup.batches.chunks(batch, ranks.rank, ranks.world)


def _fed(setup: TrainContext, batches: Sequence[np.ndarray], step: int) -> Iterator[Batch]:
    """Yield the batch of each forward pass of this rank for the global `batches`. `step` counts
    the steps done before the first batch."""
    orders = (
        (number, *chunk)
        for number, batch in enumerate(batches, step)
        for chunk in _mine(setup, batch)
    )
    device = setup.engine.ranks.device
    return feed(lambda order: _training_batch(setup, *order), orders, device)


def _fail(setup: TrainContext, progress: Progress, what: str, rows: list[int]) -> None:
    """Raise NotTrainable with the ranks and rows that caused the problem. Every rank must call this
    function."""
    found = setup.engine.ranks.gather(rows)
    where = "; ".join(
        f"rank {rank}: rows {', '.join(map(str, theirs[:_SHOWN_ROWS]))}"
        + (f" and {len(theirs) - _SHOWN_ROWS} more" if len(theirs) > _SHOWN_ROWS else "")
        for rank, theirs in enumerate(found)
        if theirs
    )
    skipped = f", after {progress.skipped} skipped updates" if progress.skipped else ""
    raise NotTrainable.of(
        "train.learning_rate",
        setup.spec.train.learning_rate,
        f"{what} in step {progress.step + 1} (epoch {progress.epoch + 1}){skipped}; {where} of the "
        "training split: the run was stopped before the weights took it in",
        "lower train.learning_rate, raise train.warmup, set train.clip, or let "
        "train.skip_nonfinite updates be skipped",
    )


def _training_batch(setup: TrainContext, step: int, chunk: int, rows: np.ndarray) -> Batch:
    """Make the batch of `rows` of the training split, with augmented examples where the run
    augments. The generator is seeded, as in `_seed`, by the position of the chunk in the run."""
    if setup.augment is None or not len(rows):
        return setup.batch(setup.train, rows)
    draw = np.random.default_rng([setup.spec.seed, step, chunk])
    return setup.collated([setup.augment(each, draw) for each in setup.train.examples(rows)])


def _seed(seed: int, step: int, chunk: int) -> None:
    """Seed every random generator that a model may use. The random numbers then depend on the
    position of the chunk in the run (step and chunk number), not on the rank that computes the
    chunk or on earlier computations."""
    words = np.random.SeedSequence([seed, step, chunk]).generate_state(3, np.uint64)
    torch.manual_seed(int(words[0] >> 1))
    random.seed(int(words[1]))
    np.random.seed(int(words[2] & 0xFFFFFFFF))
