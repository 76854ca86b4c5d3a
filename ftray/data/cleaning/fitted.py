"""The columns that a task's `fit` reads, in memory while rows are read."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from ftray.data.cleaning.clean import Columns, rows_of, table
from ftray.tasks import Task
from ftray.tasks.base import Row


class FittedColumns:
    """Keeps the columns `task.fitted` of clean rows as Arrow tables. is_label: whether they are the
    label alone, which is known without them."""

    def __init__(self, task: Task) -> None:
        names = task.fitted or ()
        self.is_label = task.info.has_labels and names == task.info.answers
        self._columns = {} if self.is_label else {name: task.columns[name] for name in names}
        self._tables: list[pa.Table] = []

    def add(self, columns: Columns) -> None:
        if self._columns and columns:
            self._tables.append(table(columns, self._columns))

    def rows(self, places: np.ndarray) -> Iterator[Row]:
        """Yield the rows at rising places among all rows that were added."""
        start = 0
        for part in self._tables:
            here = places[slice(*np.searchsorted(places, (start, start + part.num_rows)))]
            chosen = part.take(pa.array(here - start))
            yield from rows_of({name: chosen[name].to_pylist() for name in self._columns})
            start += part.num_rows
