"""Rows that are sequences of items: made of events, and held out by their last items.

Events are grouped by user without an object for each: 16 bytes an event stay in memory, and every
user and every item once. A faulty event is a row of its own, so that its place and fault are told.

Leave-last-out gives each sequence up to three rows: the last item behind all before it is the
test's, the item before that the validation's, and train has what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ftray.data.cleaning.growing import Growing
from ftray.data.readers.batch import RawBatch
from ftray.data.readers.rows import Source
from ftray.data.split import moment
from ftray.tasks.base import BadRow, is_missing

PART = "(part)"
"""Column with the part that a row belongs to: 0 for train, else the place of a held-out share."""
_LEAST = 3
"""Items of a sequence whose last ones are held out; shorter ones are all train's."""
_TOGETHER = 1024
"""Users of a batch."""


def sequence_batches(batches: Iterable[RawBatch], source: Source) -> Iterator[RawBatch]:
    """Yield a row for each sequence in the rows of `source`, and where they are to be learnt, for
    each part of a sequence."""
    of = source.sequences
    assert of is not None, "the task reads sequences"
    if of.user in source.columns:
        batches = _by_user(batches, source)
    if source.shares is None or of.next in source.columns:
        yield from batches
    else:
        yield from _in_parts(batches, source, tuple(source.shares.values()))


class _Events:
    """The events of a source: a number for the user, the item and the time of each."""

    def __init__(self, source: Source) -> None:
        assert source.sequences is not None, "the task reads sequences"
        self._of = source.sequences
        self._names = [source.columns[n] for n in (self._of.user, self._of.item, self._of.time)]
        self._users: dict[str, int] = {}
        self._items: dict[str, int] = {}
        self._where: list[str] = []
        self._columns = Growing("i4"), Growing("i4"), Growing("f8")

    def add(self, batch: RawBatch) -> RawBatch:
        """Add the events of a batch; return those that are faulty."""
        faults, added = dict(batch.faults), []
        for place, event in enumerate(zip(*map(batch.column, self._names), strict=True)):
            if place in faults:
                continue
            try:
                user, item, time = self._read(*event)
            except BadRow as fault:
                faults[place] = fault
                continue
            if user not in self._users:
                self._where.append(batch.where(place))
            found = self._users.setdefault(user, len(self._users))
            added.append((found, self._items.setdefault(item, len(self._items)), time))
        for growing, values in zip(self._columns, zip(*added, strict=True), strict=bool(added)):
            growing.add(values)
        places = sorted(faults)
        rows = [dict(batch.rows[place]) for place in places]
        numbers = [batch.where(place) for place in places]
        return RawBatch(rows, "", numbers, {n: faults[p] for n, p in enumerate(places)})

    def _read(self, user: Any, item: Any, time: Any) -> tuple[str, str, float]:
        """Return user, item and time of an event. Raises BadRow."""
        try:
            who = self._of.name(user)
        except BadRow as fault:
            raise BadRow(fault.kind.replace("item", "user"), fault.detail) from None
        what = self._of.name(item)
        if is_missing(time) or time == "":
            raise BadRow("missing_time")
        try:
            return who, what, moment(time)
        except ValueError as error:
            raise BadRow("time_not_a_time", str(error)[:80]) from None

    def grouped(self, source: Source) -> Iterator[RawBatch]:
        """Yield a row for each user, in the order of their first events; of equal times, in the
        order of the source."""
        users, items, times = (of.array() for of in self._columns)
        order = np.lexsort((items, times, users))
        repeats = np.zeros(len(users), dtype=bool)
        same = [of[order][1:] == of[order][:-1] for of in (users, items, times)]
        repeats[order[1:]] = np.logical_and.reduce(same)
        if found := int(repeats.sum()):
            source.note(f"events that repeat user, item and time of another, left out: {found:,}")
        order = np.lexsort((times, users))
        order = order[~repeats[order]]
        bounds = np.searchsorted(users[order], np.arange(len(self._users) + 1))
        names, who, what = list(self._items), list(self._users), items[order]
        user_column, item_column, _ = self._names
        for start in range(0, len(who), _TOGETHER):
            some = range(start, min(start + _TOGETHER, len(who)))
            rows = [
                {
                    user_column: who[user],
                    item_column: [names[i] for i in what[bounds[user] : bounds[user + 1]]],
                }
                for user in some
            ]
            yield RawBatch(rows, "", self._where[start : some.stop])


def _by_user(batches: Iterable[RawBatch], source: Source) -> Iterator[RawBatch]:
    events = _Events(source)
    for batch in batches:
        if len(faulty := events.add(batch)):
            yield faulty
    yield from events.grouped(source)


def _in_parts(
    batches: Iterable[RawBatch], source: Source, shares: Sequence[float]
) -> Iterator[RawBatch]:
    """Yield the parts of sequences as rows. Draws depend on the seed and on the number of a
    sequence alone."""
    of = source.sequences
    assert of is not None, "the task reads sequences"
    column, draw = source.named[of.items], np.random.Generator(np.random.PCG64(source.seed))
    single = 0
    for batch in batches:
        rows: list[Mapping[str, Any]] = []
        numbers: list[str] = []
        faults: dict[int, BadRow] = {}
        values, draws = batch.column(column), draw.random((len(batch), len(shares)))
        for place, raw in enumerate(values):
            row, where = batch.rows[place], batch.where(place)
            items = batch.faults.get(place) or _read(of.read, raw)
            if isinstance(items, BadRow):
                faults[len(rows)] = items
                rows.append(row)
                numbers.append(where)
                continue
            single += len(items) == 1
            for part, history, following in _parts(items, shares, draws[place]):
                rows.append({**row, column: history, of.next: following, PART: part})
                numbers.append(where)
        yield RawBatch(rows, "", numbers, faults)
    if single:
        source.note(f"sequences of a single item, after which nothing comes, left out: {single:,}")


def _read(read: Callable[[Any], list[str]], raw: Any) -> list[str] | BadRow:
    """Return the items of a sequence, or why there are none."""
    try:
        return read(raw) or BadRow("no_items")
    except BadRow as fault:
        return fault


def _parts(
    items: Sequence[str], shares: Sequence[float], draws: np.ndarray
) -> Iterator[tuple[int, Sequence[str], Sequence[str]]]:
    """Yield part, history and what follows it, for each part of a sequence."""
    end = len(items)
    for part in range(len(shares), 0, -1) if end >= _LEAST else ():
        if draws[part - 1] < shares[part - 1]:
            end -= 1
            yield part, items[:end], items[end : end + 1]
    if end > 1:
        yield 0, items[: end - 1], items[1:end]
