"""Length-bucketed batches whose order is a pure function of (seed, epoch).

A global batch is cut into chunks of the micro batch size at places that do not depend on the number
of workers; chunk j goes to rank j mod W. So the same rows meet in the same forward pass however
many workers there are, and a run resumes at any step by asking for the same plan again.

Skewed labels can be evened out: each row weighs so much that all labels weigh the same together,
either in the loss or as its chance to be drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

# Rows are sorted by length within pools of this many batches: wide enough for little padding,
# narrow enough to leave the order random.
_POOL_BATCHES = 50


@dataclass(frozen=True)
class BatchPlan:
    """How rows of given lengths are grouped. `lengths`: (rows,) tokens of each row; `chances`:
    (rows,) how likely each is to be drawn, in any unit, or None for every row once an epoch."""

    lengths: np.ndarray
    batch_size: int
    micro_batch_size: int
    seed: int
    chances: np.ndarray | None = None

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.lengths) / self.batch_size)

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Row indices of each global batch of `epoch`, each sorted by length. Every row occurs
        once, or as many rows as there are were drawn with replacement; one batch may be short."""
        random = np.random.Generator(np.random.PCG64([self.seed, epoch]))
        order = self._drawn(random)
        pool = self.batch_size * _POOL_BATCHES
        batches: list[np.ndarray] = []
        for start in range(0, len(order), pool):
            rows = order[start : start + pool]
            rows = rows[np.argsort(self.lengths[rows], kind="stable")]
            batches.extend(
                rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)
            )
        return [batches[i] for i in random.permutation(len(batches))]

    def _drawn(self, random: np.random.Generator) -> np.ndarray:
        rows = len(self.lengths)
        if self.chances is None:
            return random.permutation(rows)
        return random.choice(rows, size=rows, p=self.chances / self.chances.sum())

    def accumulation_steps(self, workers: int) -> int:
        """Forward passes of each worker per optimizer step: the same on every rank."""
        return math.ceil(math.ceil(self.batch_size / self.micro_batch_size) / workers)

    def chunks(self, batch: np.ndarray, rank: int, workers: int) -> list[tuple[int, np.ndarray]]:
        """(number within the batch, row indices) of each forward pass of `rank`.

        Every rank gets equally many, so the last ones may be empty.
        """
        size = self.micro_batch_size
        return [
            (number, batch[number * size : (number + 1) * size])
            for number in range(rank, self.accumulation_steps(workers) * workers, workers)
        ]


def balancing_weights(targets: np.ndarray) -> np.ndarray:
    """N / (C * n) for each of N rows, n of which have its label, with C labels that occur:
    (rows,) float64. They add up to the same for every label, and to N."""
    _, inverse, counts = np.unique(targets, return_inverse=True, return_counts=True)
    return len(targets) / (len(counts) * counts[inverse])


def in_order(lengths: np.ndarray, size: int, rank: int, workers: int) -> list[np.ndarray]:
    """Row indices for one pass over all rows by length, for evaluation: this rank's batches.

    Ranks may get different numbers of batches; an empty list is possible.
    """
    order = np.argsort(lengths, kind="stable")
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    return batches[rank::workers]
