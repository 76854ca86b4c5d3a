"""Finds the kinds of a table's columns in the training rows, and fits their bins and
vocabularies."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import xxhash

from ftray.errors import DataError
from ftray.near import did_you_mean, nearest
from ftray.tasks.tabular.cells import Cell, category_of, days_of, moment_of, number_of
from ftray.tasks.tabular.columns import Column, Kind

RECORD = "record"
"""The logical column with all columns of a row but the answer."""
MOST_ROWS = 100_000
"""Rows to which columns are fitted; of more rows, a sample that does not depend on their order."""
MOST_VALUES = 1_000
"""Most categories of a column with a token of their own: the commonest."""
_RARE = 2
"""Rows of a category with a token of its own. The rows of rarer ones teach what an unseen category
means."""
_WORDS, _SHARE = 4, 0.1
"""A column of texts has that many words a value at least, and more different values than that share
of the rows."""
_SURE, _DENSE = 50, 4
"""Rows from which a column with another value in each row is taken for a name of the rows, or for
their number, where whole numbers are that dense at least."""
_LEAST, _FEWEST = 50, 4
"""Rows of a bin, unless there would be fewer bins than that: finer bins are learnt by heart."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_READERS = {"number": number_of, "date": moment_of}


class Sample:
    """The records, which are JSON, of the rows that pass by, or `MOST_ROWS` of them."""

    def __init__(self) -> None:
        self._kept: list[tuple[int, str]] = []

    def passing(self, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the rows, which have a record each, as they are."""
        for row in rows:
            self._kept.append((xxhash.xxh3_64_intdigest(row[RECORD].encode()), row[RECORD]))
            if len(self._kept) >= 2 * MOST_ROWS:
                self._kept = sorted(self._kept)[:MOST_ROWS]
            yield row

    def records(self) -> list[dict[str, Cell | None]]:
        return [json.loads(record) for _, record in sorted(self._kept)[:MOST_ROWS]]


def fit_columns(
    rows: Sequence[Mapping[str, Cell | None]], kinds: Mapping[str, Kind], bins: int
) -> tuple[Column, ...]:
    """Return the columns that rows have, sorted by name. kinds: those that the spec gives; bins: of
    a number. Raises DataError where the rows do not have the columns in `kinds`, or other
    values."""
    names = sorted({name for row in rows for name in row})
    for name in kinds:
        if name not in names:
            hint = did_you_mean(nearest(name, names), "name a column with values, or leave it out")
            raise DataError.of(f"task_options.columns.{name}", kinds[name], "no such column", hint)
    found = []
    for name in names:
        values = [cell for row in rows if (cell := row.get(name)) is not None]
        kind = kinds.get(name)
        if kind is not None:
            _check(name, kind, values)
        found.append(_fitted(name, kind, values, len(rows), bins))
    return tuple(found)


def _check(name: str, kind: Kind, values: Sequence[Cell]) -> None:
    """Raise DataError where the spec gives a column a kind that its values do not have."""
    read = _READERS.get(kind)
    if read is None:
        return
    wrong = [value for value in values if read(value) is None]
    if wrong:
        raise DataError.of(
            f"task_options.columns.{name}",
            kind,
            f"{len(wrong):,} of {len(values):,} values are none, such as {wrong[0]!r}",
            "mend them or leave them empty, or set category, text or ignore",
        )


def _fitted(name: str, kind: Kind | None, values: Sequence[Cell], rows: int, bins: int) -> Column:
    distinct = len(set(map(str, values)))
    about: dict[str, Any] = {"name": name, "rows": rows, "missing": rows - len(values)}
    about["distinct"] = distinct
    if kind is None:
        kind, why = _kind_of(name, values, rows, distinct)
        about["why"] = why
    if kind == "number":
        numbers = np.array([number_of(value) for value in values], dtype=np.float64)
        return Column(kind=kind, **about, edges=_edges(numbers, bins), summary=_quartiles(numbers))
    if kind == "date":
        days = np.array([days_of(moment) for v in values if (moment := moment_of(v))])
        return Column(kind=kind, **about, edges=_edges(days, bins), summary=_dates(days))
    if kind == "category":
        return Column(kind=kind, **about, values=_vocabulary(values))
    return Column(kind=kind, **about)


def _kind_of(name: str, values: Sequence[Cell], rows: int, distinct: int) -> tuple[Kind, str]:
    """Return the kind of a column, and the reason where it is not read."""
    if not name.strip():
        return "ignore", "the column has no name"
    if not values:
        return "ignore", "no row has a value"
    if distinct == 1 and len(values) == rows:
        return "ignore", f"all rows have {values[0]!r}"
    numbers = [number for value in values if (number := number_of(value)) is not None]
    if len(numbers) == len(values):
        counts = len(set(numbers)) == rows >= _SURE and all(map(float.is_integer, numbers))
        if counts and max(numbers) - min(numbers) < _DENSE * rows:
            return "ignore", "it numbers the rows"
        return "number", ""
    if all(moment_of(value) is not None for value in values):
        return "date", ""
    words = float(np.mean([len(str(value).split()) for value in values]))
    if words >= _WORDS and distinct > _SHARE * len(values):
        return "text", "texts, which only a language model reads"
    if distinct == len(values) >= _SURE:
        return "ignore", "every row has another value"
    return "category", ""


def _edges(numbers: np.ndarray, bins: int) -> tuple[float, ...]:
    """Return the inner edges of at most `bins` bins with about as many numbers each, at least
    `_LEAST`: between the different numbers, where there are no more of them."""
    different, bins = np.unique(numbers), min(bins, max(_FEWEST, len(numbers) // _LEAST))
    if len(different) <= bins:
        return tuple(((different[1:] + different[:-1]) / 2).tolist())
    inner = np.quantile(numbers, np.linspace(0, 1, bins + 1)[1:-1])
    return tuple(np.unique(inner).tolist())


def _quartiles(numbers: np.ndarray) -> tuple[str, ...]:
    return tuple(f"{value:.4g}" for value in np.quantile(numbers, (0, 0.25, 0.5, 0.75, 1)))


def _dates(days: np.ndarray) -> tuple[str, ...]:
    found = np.quantile(days, (0, 0.5, 1))
    return tuple(str((_EPOCH + timedelta(days=float(day))).date()) for day in found)


def _vocabulary(values: Sequence[Cell]) -> tuple[str, ...]:
    """Return the categories that have a token of their own, sorted."""
    counts = Counter(map(category_of, values))
    common = sorted(counts, key=lambda name: (-counts[name], name))[:MOST_VALUES]
    return tuple(sorted(name for name in common if counts[name] >= _RARE))
