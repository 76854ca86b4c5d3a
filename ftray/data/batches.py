"""Length-bucketed batches whose order is a pure function of (seed, epoch).

A global batch is cut into chunks of the micro batch size at places that do not depend on the number
of workers; chunk j goes to rank j mod W. So the same rows meet in the same forward pass however
many workers there are, and a run resumes at any step by asking for the same plan again.
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
    """How rows of given lengths are grouped. `lengths`: (rows,) tokens of each row."""

    lengths: np.ndarray
    batch_size: int
    micro_batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.lengths) / self.batch_size)

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Row indices of each global batch of `epoch`, each sorted by length. Every row occurs
        once; one batch may be short."""
        random = np.random.Generator(np.random.PCG64([self.seed, epoch]))
        order = random.permutation(len(self.lengths))
        pool = self.batch_size * _POOL_BATCHES
        batches: list[np.ndarray] = []
        for start in range(0, len(order), pool):
            rows = order[start : start + pool]
            rows = rows[np.argsort(self.lengths[rows], kind="stable")]
            batches.extend(
                rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)
            )
        return [batches[i] for i in random.permutation(len(batches))]

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


def in_order(lengths: np.ndarray, size: int, rank: int, workers: int) -> list[np.ndarray]:
    """Row indices for one pass over all rows by length, for evaluation: this rank's batches.

    Ranks may get different numbers of batches; an empty list is possible.
    """
    order = np.argsort(lengths, kind="stable")
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    return batches[rank::workers]
