"""The rows of one source, without their values: they are read in batches, and again when needed.

The first reading cleans each row and keeps about 30 bytes of it: the digest of the key by which
duplicates are found, a digest of its values, its label, and whether it is used. From then on a row
is a number, counted from 0 in the order of the source. Whoever needs values names the rows; the
source is then read again, up to the last of them, and what is read is compared with the digests.

Sources are read twice, local and remote ones, rather than kept on a local disk: reading takes a
small part of the time of encoding, and the nodes of a cluster seldom have a disk for all rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import repeat
from typing import Any

import numpy as np

from ftray.data.cleaning.answers import Answers, own_strata
from ftray.data.cleaning.clean import Cleaned, Columns, clean, key_digests, row_digests, rows_of
from ftray.data.cleaning.faults import PLACES_SHOWN, UNKNOWN_LABEL, Dropped, Faults, no_usable_row
from ftray.data.cleaning.fitted import FittedColumns
from ftray.data.cleaning.growing import Growing
from ftray.data.cleaning.report import SourceCount
from ftray.data.cleaning.twins import (
    CONFLICT,
    DUPLICATE,
    LEAKED,
    Twins,
    alike,
    are_among,
    find_twins,
)
from ftray.data.readers.batch import RawBatch
from ftray.data.readers.rows import Source
from ftray.data.sources import batches_of
from ftray.data.split_column import SplitColumn
from ftray.errors import FtrayError, Problem, shorten
from ftray.tasks import Task
from ftray.tasks.base import BadRow, Row
from ftray.tasks.info import Modality
from ftray.tasks.labels import label_name

_KEPT, _FAULTY = 0, 1


class SourceRows:
    """The rows of one source. Rows in arguments and results are numbers in rising order, int64.

    column: the values by which rows are split. digests: of the values of each row, (rows,) uint64.
    names: columns of clean rows.
    """

    def __init__(
        self, name: str, source: Source, task: Task, column: SplitColumn | None = None
    ) -> None:
        """Read the source for the first time. Raises DataError where it has no rows."""
        self.name, self.source, self.column = name, source, column
        self.names: Sequence[str] = ()
        self._task = task
        self._faults, self._beyond_ascii = Faults(), 0
        self._reasons = [BadRow("kept"), BadRow("faulty")]
        self._answers = Answers(source, task)
        self._fitted = FittedColumns(task)
        self._twins = Twins.none()
        self._known: Collection[str] = ()
        self._unknown = np.empty(0, np.int64)
        self._strange: list[str | None] = []
        read = [Growing("u1"), Growing("u8", (2,)), Growing("u8"), Growing("i4")]
        for batch in batches_of(source):
            for growing, values in zip(read, self._first_reading(batch), strict=True):
                growing.add(values)
        self._state, self._keys, self.digests, self._numbers = (of.array() for of in read)
        if not len(self._state):
            raise source.error("no rows in it", "name a source with rows")

    def _first_reading(self, batch: RawBatch) -> Iterator[np.ndarray]:
        """Yield state, key, digest and label of each row."""
        found = clean(batch, self.source, self._task)
        for index, fault in sorted(found.faults.items()):
            self._faults.add(batch.where(index), fault)
        rows, self.names = rows_of(found.columns), self.names or [*found.columns]
        if self.column is not None:
            self.column.add(batch, found.kept)
        self._fitted.add(found.columns)
        self._beyond_ascii += found.beyond_ascii
        state = np.full(len(batch), _FAULTY, np.uint8)
        state[list(found.kept)] = _KEPT
        yield state
        yield _spread(key_digests(map(self._task.key, rows)), found, batch)
        yield _spread(np.array(row_digests(found.columns), np.uint64), found, batch)
        yield _spread(np.array(self._answers.add(batch, found, rows), np.int32), found, batch)

    @property
    def modalities(self) -> Mapping[str, Modality]:
        return self._task.columns

    @property
    def kept(self) -> np.ndarray:
        return np.flatnonzero(self._state == _KEPT)

    def count(self) -> SourceCount:
        kinds = Counter(self._faults.counts)
        for state, reason in enumerate(self._reasons[_FAULTY + 1 :], _FAULTY + 1):
            kinds[reason.kind] += int((self._state == state).sum())
        return SourceCount(len(self._state), dict(sorted((+kinds).items())))

    def strata(self, rows: np.ndarray) -> np.ndarray:
        """Return what rows that are split together are stratified by: the place of each row's
        stratum among the sorted strata."""
        return self._answers.ranks(self._numbers[rows], self._task.strata)[0]

    def label_counts(self, rows: np.ndarray) -> dict[str, int]:
        """Count rows: label -> rows, sorted by label; "" -> rows for a task without labels."""
        ranks, names = self._answers.ranks(self._numbers[rows], own_strata)
        return dict(zip(names, np.bincount(ranks, minlength=len(names)).tolist(), strict=True))

    def labels(self, rows: np.ndarray) -> set[str]:
        """Return the labels that rows have."""
        return self._answers.labels(self._numbers[rows])

    def spelled(self) -> Iterator[tuple[Any, int]]:
        """Yield each label of kept rows, as the source spells it, and how many rows have it."""
        return self._answers.spelled(self._numbers[self.kept])

    # Leaving rows out

    def _drop(self, rows: np.ndarray, reason: BadRow) -> None:
        self._state[rows] = len(self._reasons)
        self._reasons.append(reason)

    def drop_twins(self) -> None:
        """Keep the first of several duplicates; keep none where their labels differ. Equal rows
        that are different cases all stay."""
        if self._task.info.repeats:
            return
        kept = self.kept
        rows = kept[alike(self._keys[kept, 0])]
        strata, _ = self._answers.ranks(self._numbers[rows], own_strata)
        found = find_twins(self._keys[rows], strata)
        self._twins = Twins(*(rows[places] for places in found))
        self._drop(self._twins.duplicates, BadRow(DUPLICATE))
        self._drop(self._twins.conflicts, BadRow(CONFLICT, "its twins have other labels"))

    def drop_leaked(self, other: SourceRows) -> None:
        """Drop the rows that have a duplicate in `other`, whatever their labels; none where equal
        rows are different cases."""
        if self._task.info.repeats:
            return
        kept = self.kept
        found = are_among(self._keys[kept], other._keys[other.kept])
        self._drop(kept[found], BadRow(LEAKED, f"its twin is in {other.name}"))

    def forget_keys(self) -> None:
        """Give back the memory of the keys: no more duplicates are to be found."""
        self._keys = np.empty((0, 2), np.uint64)

    def drop_unknown(self, labels: Collection[str]) -> None:
        """Drop the rows with a label that is not in `labels`."""
        kept, known = self.kept, {label_name(label) for label in labels}
        self._strange = self._answers.unknown(known)
        is_unknown = np.array([label is not None for label in self._strange], dtype=bool)
        self._known, self._unknown = labels, kept[is_unknown[self._numbers[kept]]]
        self._drop(self._unknown, BadRow(UNKNOWN_LABEL))

    def problem(self) -> Problem | None:
        """Describe the faulty rows; duplicates are no faults."""
        faults, unknown = self._faults.copy(), Counter[str]()
        shown = self._unknown[:PLACES_SHOWN]
        for row, where in zip(shown.tolist(), self.places(shown), strict=True):
            faults.add(where, BadRow(UNKNOWN_LABEL, self._unknown_label(row)))
        if len(shown):
            faults.counts[UNKNOWN_LABEL] = len(self._unknown)
            numbers = self._numbers[self._unknown]
            _, first, counts = np.unique(numbers, return_index=True, return_counts=True)
            for place in np.argsort(first).tolist():
                unknown[self._unknown_label(self._unknown[first[place]])] += int(counts[place])
        read = len(self._state)
        return faults.described(self.source, read, unknown, self._known, self._beyond_ascii)

    def _unknown_label(self, row: int) -> str:
        return shorten(self._strange[self._numbers[row]], 40)

    def require_rows(self) -> None:
        """Raise DataError when no row is left."""
        if not len(self.kept):
            raise no_usable_row(self.source, self.count().dropped)

    # Reading again

    def to_fit(self, rows: np.ndarray) -> Iterator[Row]:
        """Yield the rows with the columns that the task's `fit` reads; in any order."""
        task = self._task
        if task.fitted is None:
            for _, columns in self.read(rows):
                yield from rows_of(columns)
        elif self._fitted.is_label:
            for label, count in self.label_counts(rows).items():
                yield from repeat({task.fitted[0]: label}, count)
        else:
            clean_rows = np.flatnonzero(self._state != _FAULTY)
            yield from self._fitted.rows(np.searchsorted(clean_rows, rows))

    def read(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, Columns]]:
        """Read rows again: yield some of them at a time, and the clean values of these. Raises
        DataError where they are not what they were."""
        for here, batch in self._raw(rows):
            found = clean(batch, self.source, self._task)
            if found.faults or row_digests(found.columns) != self.digests[here].tolist():
                raise self._changed()
            yield here, found.columns

    def places(self, rows: np.ndarray) -> list[str]:
        """Return the place of each row, FILE:LINE."""
        return [batch.where(i) for _, batch in self._raw(rows) for i in range(len(batch))]

    def beside(self, rows: np.ndarray, column: str, key: str) -> list[Any]:
        """Return the raw value of each row in a column that the task does not read. key: names the
        column in errors. Raises DataError where the source has no such column."""
        found = self._raw(rows, {column: key})
        return [value for _, batch in found for value in batch.column(column)]

    def dropped(self, more: Mapping[int, str]) -> Iterator[Dropped]:
        """Yield the rows that are left out, and beside them those in `more`: row -> kind."""
        is_out, is_first = self._state != _KEPT, np.zeros(len(self._state), dtype=bool)
        is_out[[*more]] = True
        is_first[self._twins.first] = True
        where: dict[int, str] = {}
        for here, batch in self._raw(np.flatnonzero(is_out | is_first)):
            faults = clean(batch, self.source, self._task).faults
            for index, row in enumerate(here.tolist()):
                place = batch.where(index)
                if is_first[row]:
                    where[row] = place
                if is_out[row]:
                    fault = faults.get(index) or self._reason(row, more, where)
                    yield Dropped(self.name, place, fault.kind, fault.detail, batch.rows[index])

    def _reason(self, row: int, more: Mapping[int, str], where: Mapping[int, str]) -> BadRow:
        """Return why a row without faults is left out. where: places of rows that have twins."""
        if row in more:
            return BadRow(more[row])
        reason = self._reasons[self._state[row]]
        if self._state[row] == _FAULTY:
            raise self._changed()
        if reason.kind == DUPLICATE:
            place = np.searchsorted(self._twins.duplicates, row)
            return BadRow(DUPLICATE, f"of {where[int(self._twins.first[place])]}")
        if reason.kind == UNKNOWN_LABEL:
            return BadRow(UNKNOWN_LABEL, self._unknown_label(row))
        return reason

    def _raw(
        self, rows: np.ndarray, beside: Mapping[str, str] | None = None
    ) -> Iterator[tuple[np.ndarray, RawBatch]]:
        """Read rows again, with further columns `beside` those of the source."""
        if not len(rows):
            return
        start, more = 0, {**self.source.beside, **(beside or {})}
        for batch in batches_of(replace(self.source, beside=more, notes=[])):
            end = start + len(batch)
            here = rows[slice(*np.searchsorted(rows, (start, end)))]
            if len(here):
                yield here, batch.take((here - start).tolist())
            if end > rows[-1]:
                return
            start = end
        raise self._changed()

    def _changed(self) -> FtrayError:
        return self.source.error("its rows changed while it was read", "run again")


def _spread(values: np.ndarray, found: Cleaned, batch: RawBatch) -> np.ndarray:
    """Return the values of clean rows as those of all rows of the batch, 0 for the others."""
    if not found.faults:
        return values
    spread = np.zeros((len(batch), *values.shape[1:]), values.dtype)
    spread[list(found.kept)] = values
    return spread
