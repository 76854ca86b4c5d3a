"""Statistics of repeated runs, and Markdown tables."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """The same figure from several runs."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def deviation(self) -> float:
        """Standard deviation estimated from the sample; 0 for a single run."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0

    def over(self, other: Sample) -> Sample:
        """Ratios run by run.

        The two runs of a ratio are neighbours in time, so that a drift of the machine's speed
        cancels.
        """
        return Sample(tuple(a / b for a, b in zip(self.values, other.values, strict=True)))

    def mean_and_deviation(self, digits: int = 4) -> str:
        return f"{self.mean:.{digits}f} ± {self.deviation:.{digits}f}"

    def median_and_range(self, digits: int) -> str:
        low, high = min(self.values), max(self.values)
        return f"{self.median:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up in a terminal."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |"
        for line in lines
    )
