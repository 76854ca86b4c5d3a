"""Plans length-bucketed batches, whose order is a pure function of (seed, pass over the rows).

A global batch is cut into micro-batches (`chunks`) at positions that do not depend on the number W
of workers; micro-batch j goes to rank j mod W. So the same rows share a forward pass for any number
of workers, and a run can resume at any step by making the same plan again.

Skewed labels can be balanced: each row gets a weight such that the rows of every label have the
same total weight. The weight scales the row's loss, or its chance to be drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

# Rows are sorted by length within pools of this many batches: large enough for little padding,
# small enough to leave the order random.
_POOL_BATCHES = 50


@dataclass(frozen=True)
class BatchPlan:
    """Groups rows into batches by length. `lengths`: (rows,) tokens of each row; `chances`:
    (rows,) relative probability of drawing each row, or None to draw every row once in an epoch;
    together: consecutive examples that go into one batch, for a loss that compares them: what is
    called a row here is then one of these examples; steps: those of an epoch, None for a pass over
    all rows."""

    lengths: np.ndarray
    batch_size: int
    micro_batch_size: int
    seed: int
    chances: np.ndarray | None = None
    together: int = 1
    steps: int | None = None

    @property
    def steps_per_epoch(self) -> int:
        return self.steps or self._steps_per_pass

    @property
    def _steps_per_pass(self) -> int:
        return math.ceil(len(self.lengths) // self.together / self._groups)

    @property
    def _groups(self) -> int:
        """Groups of `together` rows in a batch."""
        return self.batch_size // self.together

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Return the row indices of each global batch of `epoch`, each batch sorted by length. An
        epoch of a given number of steps begins in the pass where the one before it ended."""
        if self.steps is None:
            return self._pass(epoch)
        first, size = epoch * self.steps, self._steps_per_pass
        passes = range(first // size, (first + self.steps - 1) // size + 1)
        batches = [batch for number in passes for batch in self._pass(number)]
        return batches[first % size : first % size + self.steps]

    def _pass(self, number: int) -> list[np.ndarray]:
        """Return the batches of a pass over all rows. Every row occurs once; with `chances`, rows
        are drawn with replacement, as many as there are. One batch may be short."""
        random = np.random.Generator(np.random.PCG64([self.seed, number]))
        order, size = self._drawn(random), self._groups
        lengths = self.lengths.reshape(-1, self.together).max(1)
        pool = size * _POOL_BATCHES
        batches: list[np.ndarray] = []
        for start in range(0, len(order), pool):
            groups = order[start : start + pool]
            groups = groups[np.argsort(lengths[groups], kind="stable")]
            batches.extend(groups[i : i + size] for i in range(0, len(groups), size))
        return [self._rows(batches[i]) for i in random.permutation(len(batches))]

    def _rows(self, groups: np.ndarray) -> np.ndarray:
        if self.together == 1:
            return groups
        rows = (groups[:, None] * self.together + np.arange(self.together)).ravel()
        return rows[np.argsort(self.lengths[rows], kind="stable")]

    def _drawn(self, random: np.random.Generator) -> np.ndarray:
        rows = len(self.lengths) // self.together
        if self.chances is None:
            return random.permutation(rows)
        return random.choice(rows, size=rows, p=self.chances / self.chances.sum())

    def accumulation_steps(self, workers: int) -> int:
        """Return the gradient accumulation steps: forward passes of each rank in an optimizer step,
        the same on every rank."""
        return math.ceil(math.ceil(self.batch_size / self.micro_batch_size) / workers)

    def chunks(self, batch: np.ndarray, rank: int, workers: int) -> list[tuple[int, np.ndarray]]:
        """Return (number within the batch, row indices) of each micro-batch of `rank`.

        Every rank gets the same number of micro-batches, so the last ones may be empty.
        """
        size = self.micro_batch_size
        return [
            (number, batch[number * size : (number + 1) * size])
            for number in range(rank, self.accumulation_steps(workers) * workers, workers)
        ]


def balancing_weights(targets: np.ndarray) -> np.ndarray:
    """Return the weight N / (C * n) of each of N rows, (rows,) float64, where n rows have the row's
    label and C labels occur. The weights have the same sum for every label, and sum to N."""
    _, inverse, counts = np.unique(targets, return_inverse=True, return_counts=True)
    return len(targets) / (len(counts) * counts[inverse])
