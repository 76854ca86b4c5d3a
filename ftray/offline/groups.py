"""Metrics by the values of a column that the model does not read, such as a region."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ftray.data.readers.rows import Source
from ftray.data.split_rows import SplitRows
from ftray.errors import DataError, shorten
from ftray.tasks.base import BadRow, Metrics
from ftray.tasks.features import Examples
from ftray.tasks.labels import MISSING, label_name

MOST_GROUPS = 100
_NONE = "(none)"


class Group(NamedTuple):
    """The rows with one value in the column, and the model's metrics on them."""

    value: str
    rows: int
    metrics: dict[str, float]


def values_of(rows: SplitRows, column: str, asked: Source) -> list[str]:
    """Return the value of each row in a column of the source, as text. Raises DataError where there
    is no such column, or it has more than `MOST_GROUPS` values."""
    if asked.sequences is not None:
        problem = "the rows of this task are sequences of items, which have no further columns"
        raise DataError.of("--by", column, problem, "leave it out")
    found = [_shown(value) for value in rows.beside(column)]
    if set(found) == {_NONE}:
        raise DataError.of("--by", column, f"no row of {asked.url} has a value", "name another")
    if (count := len(set(found))) > MOST_GROUPS:
        fix = f"name a column with at most {MOST_GROUPS}, or write ranges into one"
        raise DataError.of("--by", column, f"{count:,} different values", fix)
    return found


def _shown(value: Any) -> str:
    """Return a value as text, equal for values that people write alike, such as 1 and 1.0."""
    try:
        return label_name(value)
    except BadRow as fault:
        return _NONE if fault.kind == MISSING else shorten(value, 60)


def by_value(
    values: Sequence[str], examples: Examples, measure: Callable[[Examples], Metrics]
) -> tuple[Group, ...]:
    """Measure the examples of each value by themselves, the value with most rows first. values: of
    each row; a row without examples counts nowhere."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(examples.rows):
        places[values[row]].append(place)
    groups = (_group(value, _taken(examples, of), measure) for value, of in places.items())
    return tuple(sorted(groups, key=lambda group: (-group.rows, group.value)))


def _group(value: str, examples: Examples, measure: Callable[[Examples], Metrics]) -> Group:
    metrics: dict[str, Any] = measure(examples)
    numbers = {name: of for name, of in metrics.items() if isinstance(of, float)}
    return Group(value, len(set(examples.rows)), numbers)


def _taken(examples: Examples, places: Sequence[int]) -> Examples:
    features = {name: [of[place] for place in places] for name, of in examples.features.items()}
    return replace(examples, features=features, rows=[examples.rows[place] for place in places])
