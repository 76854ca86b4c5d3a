"""Computes statistics of the lengths of rows in tokens, and counts the rows that are cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from ftray.data.split_rows import SplitRows
from ftray.tasks import Task
from ftray.tasks.base import TaskSetup

_RANKS = (50, 90, 99, 100)
_SAMPLE = 2_000
"""Most rows from which `estimate_lengths` estimates the lengths of a split."""


@dataclass(frozen=True)
class Lengths:
    """Statistics of the tokens of `rows` rows before cutting. `longer` rows have more than `limit`
    tokens. `examples` training examples are made of the rows: more than `rows` where long rows are
    split into windows."""

    rows: int
    longer: int
    examples: int
    limit: int
    median: int
    p90: int
    p99: int
    longest: int
    mean: float = 0.0
    """Of what is learnt: rows count up to `limit` tokens where they are cut."""

    @classmethod
    def of(cls, tokens: Sequence[int] | np.ndarray, examples: int, limit: int) -> Self:
        """Compute the statistics. tokens: (rows,), tokens of each row."""
        counts = np.asarray(tokens) if len(tokens) else np.zeros(0, int)
        ranks = np.percentile(counts, _RANKS, method="higher") if len(counts) else [0] * 4
        median, p90, p99, longest = map(int, ranks)
        longer = int((counts > limit).sum())
        learnt = counts if examples > len(counts) else np.minimum(counts, limit)
        mean = round(float(learnt.mean()), 2) if len(counts) else 0.0
        return cls(len(counts), longer, examples, limit, median, p90, p99, longest, mean)

    def lines(self, what: str) -> Iterator[str]:
        """Yield lines for people: how many rows of `what` are too long, and how long rows are. No
        line where rows have no length."""
        if not self.longest:
            return
        share = f"{self.longer:,} of {self.rows:,} rows ({self.longer / self.rows:.1%})"
        if not self.longer:
            yield f"{what}: no row is longer than data.max_length = {self.limit} tokens"
        elif self.examples > self.rows:
            yield f"{what}: {share} are learnt in windows of {self.limit} tokens"
        else:
            yield f"{what}: {share} are cut to data.max_length = {self.limit} tokens"
        yield (
            f"  tokens a row: median {self.median:,}, 90% up to {self.p90:,}, 99% up to "
            f"{self.p99:,}, longest {self.longest:,}"
        )


def estimate_lengths(
    rows: SplitRows, task: Task, setup: TaskSetup
) -> tuple[Lengths, dict[int, str]]:
    """Return the lengths of a random sample of a split's clean rows, and the indices of the sampled
    rows without examples, each with the kind of its fault."""
    count = min(rows.num_rows, _SAMPLE)
    chosen = np.random.default_rng(0).choice(rows.num_rows, count, replace=False)
    chosen = np.sort(chosen)
    lengths: list[int] = []
    rejected: dict[int, str] = {}
    made, start = 0, 0
    for part in rows.tables(chosen):
        examples = task.examples(setup, {n: part[n].to_pylist() for n in part.column_names})
        lengths += examples.lengths
        made += len(examples)
        rejected |= {int(chosen[start + at]): kind for at, kind in examples.rejected.items()}
        start += part.num_rows
    return Lengths.of(lengths, made, setup.max_length), rejected
