"""Where a run stands, which checkpoint is the best so far, and when to stop: decisions without
effects."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from typing import Any

from ftray.spec.sections.training import TrainSpec

# Of the validation loss over its lowest, above which a run counts as overfitted.
_RISE = 0.1

BEST = "best"
"""Reported after each epoch: the best value of train.metric so far."""
MEMORY = "memory"
"""Bytes that a trial's process held at most."""
EPOCH_SECONDS = "epoch_seconds"
"""Of a trial: the training loop's, its evaluations included."""


@dataclass
class Progress:
    """Counts of finished epochs and optimizer steps, and the course of the chosen metric."""

    epoch: int = 0
    step: int = 0
    skipped: int = 0
    loss_sum: float = 0.0
    """Of the rows of the epoch that is going on."""
    rows: int = 0
    best: float | None = None
    best_epoch: int = 0
    waited: int = 0
    stopped_early: bool = False
    micro_batch_size: int = 0
    """At which the run began, and which it keeps when it is resumed."""
    history: list[dict[str, Any]] = field(default_factory=list)

    def finish_step(self, loss: float, rows: int) -> None:
        """Take the mean loss over the rows of one more step; one that is not finite was skipped."""
        self.step += 1
        if math.isfinite(loss):
            self.loss_sum += loss * rows
            self.rows += rows

    def finish_epoch(self, spec: TrainSpec, metrics: dict[str, Any]) -> None:
        """Take the validation metrics after one more epoch: is it the best, is it time to stop?"""
        self.epoch += 1
        metrics = {**metrics, "train_loss": self.loss_sum / max(1, self.rows)}
        self.loss_sum, self.rows = 0.0, 0
        value = float(metrics[spec.metric])
        gain = self._gain(value, spec)
        stopping = spec.early_stopping
        # A worse epoch than the best waits; an equal one too.
        if gain > (stopping.min_delta if stopping else 0):
            self.waited = 0
        else:
            self.waited += 1
        if gain > 0:
            self.best, self.best_epoch = value, self.epoch
        self.stopped_early = bool(stopping and self.waited >= stopping.patience)
        self.history.append({"epoch": self.epoch, "step": self.step, **metrics})

    def _gain(self, value: float, spec: TrainSpec) -> float:
        """How much better than the best so far; any number is better than none."""
        if self.best is None or (math.isnan(self.best) and not math.isnan(value)):
            return math.inf
        return self.best - value if spec.metric_mode == "min" else value - self.best

    def overfitting(self) -> str | None:
        """One sentence when validation loss rose again for good: it ends `_RISE` or more above its
        lowest, while the training loss went on falling. None when it did not."""
        finite = [entry for entry in self.history if math.isfinite(entry.get("loss", math.nan))]
        if not finite:
            return None
        least, last = min(finite, key=lambda entry: entry["loss"]), finite[-1]
        rose = last["loss"] > least["loss"] and last["loss"] >= (1 + _RISE) * least["loss"]
        if not rose or last["train_loss"] >= least["train_loss"]:
            return None
        return (
            f"the run overfits: from epoch {least['epoch']} to epoch {last['epoch']} the "
            f"validation loss rose from {least['loss']:#.3g} to {last['loss']:#.3g} while the "
            f"training loss fell from {least['train_loss']:#.3g} to {last['train_loss']:#.3g} (the "
            f"model kept is that of epoch {self.best_epoch}); lower train.epochs or "
            "train.learning_rate, set train.early_stopping, or raise train.dropout or "
            "train.label_smoothing"
        )

    def rank(self) -> float:
        """Of a checkpoint made after the last epoch: the later an improvement, the higher, so that
        the checkpoint of the highest rank is the best one, also among equal metrics."""
        return float(self.epoch) if self.best_epoch == self.epoch else -1.0

    def epoch_at_hand(self, spec: TrainSpec) -> int:
        """The epoch that is going on or comes next; of a run that is over, its last."""
        return min(self.epoch, spec.epochs - 1)

    def is_over(self, spec: TrainSpec, until: int | None = None) -> bool:
        """Whether nothing is left to train, or nothing up to the end of epoch `until`."""
        return self.stopped_early or self.epoch >= min(spec.epochs, until or spec.epochs)

    def bests(self, spec: TrainSpec) -> tuple[float, ...]:
        """After each epoch the best value of spec.metric so far, the higher the better: a loss
        with its sign changed."""
        sign = -1.0 if spec.metric_mode == "min" else 1.0
        values = (sign * float(entry[spec.metric]) for entry in self.history)
        known = (-math.inf if math.isnan(value) else value for value in values)
        return tuple(accumulate(known, max))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
