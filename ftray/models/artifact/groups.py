"""Metrics of the rows of each value of a column that the model does not read, such as a region."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from ftray.tasks.base import Metrics


class Groups(NamedTuple):
    """The groups of N rows. names: of the groups; codes: (N,) index of the group of each row."""

    names: Sequence[str]
    codes: np.ndarray


class GroupMetrics(BaseModel):
    """The rows with one value in the column, and the model's metrics on them, without those that
    are undefined there."""

    model_config = ConfigDict(frozen=True)
    value: str
    rows: int
    metrics: dict[str, float]


def by_group(
    groups: Groups, rows: np.ndarray, measure: Callable[[np.ndarray], Metrics]
) -> tuple[GroupMetrics, ...]:
    """Measure each group by itself, the group with most rows first. rows: (examples,) row of each
    example, without the rows that have none; measure: returns the metrics of the examples at these
    places."""
    codes, found = groups.codes[rows], []
    for code in np.unique(codes):
        places = np.flatnonzero(codes == code)
        numbers = {name: of for name, of in measure(places).items() if isinstance(of, float)}
        defined = {name: of for name, of in numbers.items() if math.isfinite(of)}
        count = len(np.unique(rows[places]))
        found.append(GroupMetrics(value=groups.names[code], rows=count, metrics=defined))
    return tuple(sorted(found, key=lambda group: (-group.rows, group.value)))


def worst_first(
    groups: Sequence[GroupMetrics], metric: str, lower_is_better: bool
) -> tuple[GroupMetrics, ...]:
    """Sort groups by a metric; those where it is undefined are last."""
    sign = -1 if lower_is_better else 1
    return tuple(
        sorted(groups, key=lambda group: sign * group.metrics.get(metric, sign * math.inf))
    )
