"""The progress of a run: its position, its best epoch so far, and early stopping.

This module decides only; it has no side effects.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from typing import Any

from ftray.spec.sections.training import TrainSpec

# A run counts as overfitted if its last validation loss is at least this share above its lowest.
_RISE = 0.1

BEST = "best"
"""Key of an epoch's metrics: the best value of train.metric so far."""
MEMORY = "memory"
"""Key of a trial's metrics: the peak memory of its process in bytes."""
EPOCH_SECONDS = "epoch_seconds"
"""Key of a trial's metrics: seconds per epoch of the training loop, including evaluation."""


@dataclass
class Progress:
    """The number of finished epochs and optimizer steps, and the history of the metrics."""

    epoch: int = 0
    step: int = 0
    skipped: int = 0
    loss_sum: float = 0.0
    """Sum of the losses of the rows seen in the current epoch."""
    rows: int = 0
    best: float | None = None
    best_epoch: int = 0
    waited: int = 0
    stopped_early: bool = False
    micro_batch_size: int = 0
    """The micro-batch size at the start of the run; a resumed run keeps it if it still fits."""
    history: list[dict[str, Any]] = field(default_factory=list)

    def finish_step(self, loss: float, rows: int) -> None:
        """Record one more step with its mean loss over `rows` rows. A loss that is not finite does
        not count, as the engine skipped this update."""
        self.step += 1
        if math.isfinite(loss):
            self.loss_sum += loss * rows
            self.rows += rows

    def finish_epoch(self, spec: TrainSpec, metrics: dict[str, Any]) -> None:
        """Record one more epoch with its validation metrics, and update the best epoch and early
        stopping."""
        self.epoch += 1
        metrics = {**metrics, "train_loss": self.loss_sum / max(1, self.rows)}
        self.loss_sum, self.rows = 0.0, 0
        value = float(metrics[spec.metric])
        gain = self._gain(value, spec)
        stopping = spec.early_stopping
        # An epoch that is worse than the best or equal to it counts towards patience.
        if gain > (stopping.min_delta if stopping else 0):
            self.waited = 0
        else:
            self.waited += 1
        if gain > 0:
            self.best, self.best_epoch = value, self.epoch
        self.stopped_early = bool(stopping and self.waited >= stopping.patience)
        self.history.append({"epoch": self.epoch, "step": self.step, **metrics})

    def _gain(self, value: float, spec: TrainSpec) -> float:
        """Return by how much `value` is better than the best so far; any number is infinitely
        better than none or NaN."""
        if self.best is None or (math.isnan(self.best) and not math.isnan(value)):
            return math.inf
        return self.best - value if spec.metric_mode == "min" else value - self.best

    def overfitting(self) -> str | None:
        """Return a warning if the run overfits, else None. A run overfits if its last validation
        loss is `_RISE` or more above its lowest, while the training loss fell further."""
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
        """Return the checkpoint score of the last epoch: its number if it improved the metric, else
        -1. The checkpoint with the highest score is then the best one, also among equal metrics."""
        return float(self.epoch) if self.best_epoch == self.epoch else -1.0

    def score(self, spec: TrainSpec) -> float | None:
        """Return train.metric of the last epoch, higher is better; None where it is no number."""
        value = float(self.history[-1][spec.metric])
        if not math.isfinite(value):
            return None
        return -value if spec.metric_mode == "min" else value

    def epoch_at_hand(self, spec: TrainSpec) -> int:
        """Return the index of the current or next epoch; for a finished run, of its last epoch."""
        return min(self.epoch, spec.epochs - 1)

    def is_over(self, spec: TrainSpec, until: int | None = None) -> bool:
        """Return whether the run has ended, or has reached the end of epoch `until` (0: before the
        first)."""
        last = spec.epochs if until is None else min(spec.epochs, until)
        return self.stopped_early or self.epoch >= last

    def bests(self, spec: TrainSpec) -> tuple[float, ...]:
        """Return, for each epoch, the best value of train.metric up to its end. Higher is better: a
        loss has its sign changed."""
        sign = -1.0 if spec.metric_mode == "min" else 1.0
        values = (sign * float(entry[spec.metric]) for entry in self.history)
        known = (-math.inf if math.isnan(value) else value for value in values)
        return tuple(accumulate(known, max))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
