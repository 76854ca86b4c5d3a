"""The training loop. It knows neither Ray nor Tune: it is given its ranks and someone to tell."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from ftray.data.augment import drop_tokens
from ftray.data.batches import BatchPlan, in_order
from ftray.data.encoding.encode import EncodedSplit
from ftray.errors import Interrupted, NotTrainable
from ftray.spec.schema import Spec
from ftray.tasks import Task
from ftray.tasks.base import Inputs, Metrics
from ftray.train.checkpoints import CheckpointManager
from ftray.train.distributed.context import DistContext
from ftray.train.distributed.feed import feed
from ftray.train.engine.deepspeed import Engine
from ftray.train.engine.phased import PhasedEngine
from ftray.train.engine.schedule import learning_rate
from ftray.train.progress import BEST, Progress
from ftray.train.trunk_cache.cache import STATES, Trunk

_SHOWN_ROWS = 8


class Observer(Protocol):
    """Who the loop tells, on every rank, and whom it asks whether to go on."""

    def phase(self, progress: Progress) -> None:
        """What trains has changed: at the start, and where a phase of the schedule begins."""

    def step(self, event: dict[str, Any]) -> None:
        """After each step: {step, steps, epoch, loss, learning_rate, rows, seconds}."""

    def epoch(self, metrics: dict[str, Any]) -> None:
        """After each evaluation, with its metrics. May be a barrier."""

    def alive(self) -> None:
        """Before each forward pass, and when a checkpoint was taken."""

    def warn(self, line: str) -> None:
        """What the user should know of the run, as one sentence."""

    def stopping(self) -> bool:
        """Whether this rank was asked to save and end."""
        ...


@dataclass(frozen=True)
class TrainContext:
    """Everything a run needs, built and in place."""

    spec: Spec
    task: Task
    phased: PhasedEngine
    train: EncodedSplit
    validation: EncodedSplit
    labels: tuple[str, ...]
    pad_id: int
    batches: BatchPlan
    special_ids: frozenset[int] = frozenset()
    """Tokens that no augmentation touches."""
    row_weights: np.ndarray | None = None
    """(rows,) what each row of `train` weighs in the loss; None where all weigh the same."""
    trunk: Trunk | None = None
    """What the frozen blocks give, where the model was cut above them."""

    @property
    def engine(self) -> Engine:
        return self.phased.engine

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.spec.train.epochs * self.batches.steps_per_epoch


def run(
    setup: TrainContext,
    progress: Progress,
    keeper: CheckpointManager,
    observer: Observer,
    until: int | None = None,
) -> Progress:
    """Train from where `progress` stands to the last epoch, an early stop, or the end of epoch
    `until`, counted from 1: from the checkpoint left there it goes on as if it had not stopped.

    Raises, on every rank alike, NotTrainable when a loss or a gradient is not finite, before the
    weights take it in, and Interrupted when a rank was asked to stop, after a last checkpoint.
    """
    observer.phase(progress)
    while not progress.is_over(setup.spec.train, until):
        if setup.phased.enter(progress.epoch):
            observer.phase(progress)
        _train_epoch(setup, progress, keeper, observer)
        metrics = evaluate(setup, setup.validation, observer)
        progress.finish_epoch(setup.spec.train, metrics)
        _save(setup, progress, keeper, progress.rank())
        numbers = {k: v for k, v in progress.history[-1].items() if isinstance(v, (int, float))}
        observer.epoch({**numbers, BEST: progress.best})
    keeper.wait()
    if progress.is_over(setup.spec.train) and (line := progress.overfitting()):
        observer.warn(line)
    return progress


def evaluate(setup: TrainContext, split: EncodedSplit, observer: Observer) -> Metrics:
    """Metrics over all rows of `split`, the same on every rank."""
    engine, task, ranks = setup.engine, setup.task, setup.engine.ranks
    engine.eval_mode()
    metric_state = torch.from_numpy(task.empty_metric_state(setup.labels)).to(ranks.device)
    size = 2 * setup.batches.micro_batch_size
    mine = in_order(split.lengths, size, ranks.rank, ranks.world)
    # ZeRO 3 gathers weights in every forward pass, so all ranks make equally many.
    most = math.ceil(math.ceil(len(split.lengths) / size) / ranks.world)
    passes = [*mine, *[split.empty] * (most - len(mine))]
    batches = feed(lambda rows: _inputs(setup, split, rows), passes, ranks.device)
    with torch.no_grad():
        for rows, inputs in zip(passes, batches, strict=True):
            observer.alive()
            logits = engine.logits(inputs)
            if len(rows):
                metric_state += task.metric_state(
                    logits, inputs, torch.from_numpy(split.targets[rows])
                )
    engine.train_mode()
    return task.metrics(ranks.sum(metric_state.cpu().numpy()), setup.labels)


def _train_epoch(
    setup: TrainContext, progress: Progress, keeper: CheckpointManager, observer: Observer
) -> None:
    """The steps of an epoch that are still to be made."""
    done = progress.step - progress.epoch * setup.batches.steps_per_epoch
    left = setup.batches.batches(progress.epoch)[done:]
    fed = _fed(setup, left, progress.step)
    for batch in left:
        started = time.perf_counter()
        rate = learning_rate(setup.spec.train, progress.step, setup.steps)
        wishes = (observer.stopping(), keeper.due(progress.step + 1))
        loss, (stops, saves) = _step(setup, progress, batch, fed, rate, wishes, observer)
        progress.finish_step(loss, len(batch))
        observer.step(
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
    setup: TrainContext, progress: Progress, keeper: CheckpointManager, rank: float = -1.0
) -> None:
    if keeper.keeps:
        keeper.save(setup.phased.snapshot(keeper.writes), progress, rank)


def _step(
    setup: TrainContext,
    progress: Progress,
    batch: np.ndarray,
    fed: Iterator[dict[str, torch.Tensor]],
    rate: float,
    wishes: Sequence[bool],
    observer: Observer,
) -> tuple[float, list[bool]]:
    """One optimizer step on a global batch, whose inputs on this rank come next of those `fed`;
    returns its mean loss over all that its rows, on all ranks, are to answer, and of each wish
    whether any rank has it."""
    engine, ranks = setup.engine, setup.engine.ranks
    # Of the whole batch, which every rank knows: its shares on the ranks may weigh differently.
    weight = float(_weights(setup, batch).sum())
    losses: list[tuple[np.ndarray, torch.Tensor]] = []
    for number, rows in _mine(setup, batch):
        observer.alive()
        _seed(setup.spec.seed, progress.step, number)
        inputs = next(fed)
        loss = _loss(setup, engine.logits(inputs), inputs, rows)
        losses.append((rows, loss.detach().double()))
        engine.accumulate(_barred(loss) / weight)
    norm = engine.gradient_norm()
    total, *told = _told(ranks, [loss for _, loss in losses], wishes, norm)
    mean = total / weight
    may_skip = progress.skipped < setup.spec.train.skip_nonfinite
    if not math.isfinite(mean) and not may_skip:
        broken = [row for rows, loss in losses if not loss.isfinite() for row in rows.tolist()]
        _fail(setup, progress, f"the loss is {mean}", broken)
    if engine.update(rate, None if norm is None else told.pop()):
        setup.phased.check_moved()
    else:
        if not may_skip:
            rows = np.concatenate([r for _, r in _mine(setup, batch)] or [batch[:0]])
            _fail(setup, progress, "the gradient is not finite", rows.tolist())
        progress.skipped += 1
    return mean, [answer > 0 for answer in told]


def _barred(loss: torch.Tensor) -> torch.Tensor:
    """`loss`, whose gradients are NaN where it is not finite: so no update takes them in, which
    the host need not wait for the device to know."""
    return loss * torch.where(torch.isfinite(loss.detach()), 1.0, math.nan)


def _told(
    ranks: DistContext,
    losses: Sequence[torch.Tensor],
    wishes: Sequence[bool],
    norm: torch.Tensor | None,
) -> list[float]:
    """The sum of the losses over all ranks, of each wish how many ranks have it, and the norm. Here
    the host waits for the device, once a step."""
    asked = torch.tensor(wishes, dtype=torch.float64).to(losses[0].device, non_blocking=True)
    total = torch.zeros_like(losses[0])
    for loss in losses:
        total = total + loss
    own = asked[:0] if norm is None else norm.detach().double()[None]
    return ranks.totals(torch.cat([total[None], asked]), own)


def _weights(setup: TrainContext, batch: np.ndarray) -> np.ndarray:
    """(B,) what each row's loss counts for in the mean over the batch."""
    if setup.row_weights is not None:
        return setup.row_weights[batch]
    return setup.task.units(setup.train.lengths[batch], setup.train.targets[batch])


def _loss(
    setup: TrainContext, logits: torch.Tensor, inputs: Inputs, rows: np.ndarray
) -> torch.Tensor:
    """The sum of the rows' losses, each times its weight: a scalar, also where there is no row."""
    if not len(rows):
        return logits.sum() * 0.0
    targets = torch.from_numpy(setup.train.targets[rows])
    losses = setup.task.losses(logits, inputs, targets, setup.spec.train.label_smoothing)
    if setup.row_weights is None:
        return losses.sum()
    return (losses * torch.from_numpy(setup.row_weights[rows]).to(losses)).sum()


def _mine(setup: TrainContext, batch: np.ndarray) -> list[tuple[int, np.ndarray]]:
    ranks = setup.engine.ranks
    return setup.batches.chunks(batch, ranks.rank, ranks.world)


def _fed(
    setup: TrainContext, batches: Sequence[np.ndarray], step: int
) -> Iterator[dict[str, torch.Tensor]]:
    """The inputs of each forward pass of this rank for global batches, the first of them that of
    the step after `step`."""
    orders = (
        (number, *chunk)
        for number, batch in enumerate(batches, step)
        for chunk in _mine(setup, batch)
    )
    device = setup.engine.ranks.device
    return feed(lambda order: _training_inputs(setup, *order), orders, device)


def _fail(setup: TrainContext, progress: Progress, what: str, rows: list[int]) -> None:
    """Raise NotTrainable, naming the ranks and rows it comes from. Every rank must call it."""
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


def _inputs(setup: TrainContext, split: EncodedSplit, rows: np.ndarray) -> dict[str, torch.Tensor]:
    # A rank without rows still runs its forward pass: the shortest row stands in, as a row of
    # padding alone is more than some models take.
    if not len(rows) and setup.trunk is None:
        rows = np.array([split.lengths.argmin()])
    ids = [split.ids_of(row) for row in rows]
    if setup.trunk is None:
        return setup.task.collate(ids, setup.pad_id)
    stand_in = [np.array([setup.pad_id])]
    batch = setup.task.collate(setup.trunk.tokens(ids) or stand_in, setup.pad_id)
    batch[STATES] = setup.trunk.states(ids, *batch["input_ids"].shape)
    return batch


def _training_inputs(
    setup: TrainContext, step: int, chunk: int, rows: np.ndarray
) -> dict[str, torch.Tensor]:
    """As `_inputs`, with tokens left out where the spec wants it: which ones depends, as in
    `_seed`, on where in the run the chunk stands."""
    chance = setup.spec.train.token_dropout
    if not chance or not len(rows):
        return _inputs(setup, setup.train, rows)
    draw = np.random.default_rng([setup.spec.seed, step, chunk])
    ids = [drop_tokens(setup.train.ids_of(r), chance, setup.special_ids, draw) for r in rows]
    return setup.task.collate(ids, setup.pad_id)


def _seed(seed: int, step: int, chunk: int) -> None:
    """Seed every generator that a model may draw from: what it draws depends on where in the run a
    chunk stands, not on the rank that computes it or on what was computed before."""
    words = np.random.SeedSequence([seed, step, chunk]).generate_state(3, np.uint64)
    torch.manual_seed(int(words[0] >> 1))
    random.seed(int(words[1]))
    np.random.seed(int(words[2] & 0xFFFFFFFF))
