"""Reads the groups of rows from a column of the source that the model does not read."""

from __future__ import annotations

from typing import Any

import numpy as np

from ftray.data.split_rows import SplitRows
from ftray.errors import DataError, shorten
from ftray.models.artifact.groups import Groups
from ftray.tasks.base import BadRow
from ftray.tasks.labels import MISSING, label_name

MOST_GROUPS = 100
_NONE = "(none)"


def groups_of(rows: SplitRows, column: str, key: str) -> Groups:
    """Return the groups of rows by their values in a column of the source. key: names the column in
    errors. Raises DataError where there is no such column, or it has more than `MOST_GROUPS`
    values."""
    source = rows.source.source
    if source.sequences is not None:
        problem = "the rows of this task are sequences of items, which have no further columns"
        raise DataError.of(key, column, problem, "leave it out")
    values = [_shown(value) for value in rows.beside(column, key)]
    names, codes = np.unique(values, return_inverse=True)
    if names.tolist() == [_NONE]:
        raise DataError.of(key, column, f"no row of {source.url} has a value", "name another")
    if len(names) > MOST_GROUPS:
        fix = f"name a column with at most {MOST_GROUPS}, or write ranges into one"
        raise DataError.of(key, column, f"{len(names):,} different values", fix)
    return Groups(names.tolist(), codes)


def _shown(value: Any) -> str:
    """Return a value as text, equal for values that people write alike, such as 1 and 1.0."""
    try:
        return label_name(value)
    except BadRow as fault:
        return _NONE if fault.kind == MISSING else shorten(value, 60)
