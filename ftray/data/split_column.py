"""The column by whose values rows are split: groups or times, as numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ftray.data.cleaning.growing import Growing
from ftray.data.readers.batch import RawBatch
from ftray.data.sequences import PART
from ftray.data.split import moment
from ftray.errors import DataError
from ftray.spec.sections.data import SplitSpec
from ftray.tasks.base import is_missing


class SplitColumn:
    """Collects a number for each row that is read: of its group, or its time; NaN where the row has
    no value, infinity where the value is no time."""

    def __init__(self, policy: SplitSpec) -> None:
        self._name, self._by = policy.column or PART, policy.by
        self._numbers = Growing("f8")
        self._groups: dict[str, int] = {}
        self._problem = ""

    def add(self, batch: RawBatch, kept: Sequence[int]) -> None:
        values = batch.column(self._name)
        found = np.full(len(batch), np.nan)
        found[list(kept)] = [self._number(values[index]) for index in kept]
        self._numbers.add(found)

    def _number(self, value: object) -> float:
        if is_missing(value):
            return np.nan
        if self._by == "group":
            return self._groups.setdefault(str(value), len(self._groups))
        try:
            return moment(value)
        except ValueError as error:
            self._problem = self._problem or str(error)
            return np.inf

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Return the times of rows, the parts of their sequences, or the place of each row's group
        among the sorted groups that the rows have. Raises DataError where a row has none."""
        numbers = self._numbers.array()[rows]
        if missing := int(np.isnan(numbers).sum()):
            problem = f"{missing:,} of {len(rows):,} rows have no value in it"
            raise self._error(problem, "name a full column")
        if np.isinf(numbers).any():
            fix = "name a column of numbers, dates, or texts such as 2026-01-31T12:00"
            raise self._error(self._problem, fix)
        if self._by != "group":
            return numbers
        names = list(self._groups)
        there, places = np.unique(numbers.astype(np.int64), return_inverse=True)
        order = sorted(range(len(there)), key=lambda place: names[there[place]])
        return np.argsort(order)[places]

    def _error(self, problem: str, fix: str) -> DataError:
        return DataError.of("data.split.column", self._name, problem, fix)
