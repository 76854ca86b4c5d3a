"""Batches of raw rows: what readers yield."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar, overload

from ftray.data.readers.rows import RawRow
from ftray.tasks.base import BadRow

T = TypeVar("T")

BATCH_ROWS, BATCH_BYTES = 4096, 2**22
"""Most rows of a batch, and about the most bytes where it has several rows."""
FILES_TOGETHER = 64
"""Rows of a batch where each row has a file: an image may be large."""
_WEIGHED_TOGETHER = 64


class Columns(Sequence[Mapping[str, Any]]):
    """Rows that are stored column by column. columns: name in the source -> value of each row."""

    def __init__(self, columns: Mapping[str, Sequence[Any]], rows: int) -> None:
        self.columns, self._rows = columns, rows

    def __len__(self) -> int:
        return self._rows

    @overload
    def __getitem__(self, place: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Mapping[str, Any]]: ...
    def __getitem__(self, place: Any) -> Any:
        assert isinstance(place, int), "rows are read one by one"
        return {name: column[place] for name, column in self.columns.items()}

    def take(self, places: Sequence[int]) -> Columns:
        taken = {name: [of[place] for place in places] for name, of in self.columns.items()}
        return Columns(taken, len(places))


@dataclass(frozen=True)
class RawBatch:
    """Consecutive raw rows of a source.

    rows: column name of the source -> raw value, for each row. file, numbers: a row's place is
    FILE:LINE, or FILE:ROW counted from 1 for formats without lines; where each row is a file,
    `numbers` is the name of each. faults: index of a row that could not be read -> the reason.
    contents: column name -> content of the file that each row names there, None where it names
    none.
    """

    rows: Sequence[Mapping[str, Any]]
    file: str
    numbers: Sequence[Any]
    faults: Mapping[int, BadRow] = field(default_factory=dict)
    contents: Mapping[str, Sequence[bytes | None]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def names(self) -> list[str]:
        """The columns that rows of the batch have, by their names in the source."""
        if isinstance(self.rows, Columns):
            return list(self.rows.columns)
        read = (row for index, row in enumerate(self.rows) if index not in self.faults)
        return list(dict.fromkeys(name for row in read for name in row))

    def where(self, index: int) -> str:
        number = self.numbers[index]
        return f"{self.file}:{number}" if self.file else number

    def column(self, name: str) -> Sequence[Any]:
        """Return a column: the content of a row's file where it has one, else the raw value; None
        in rows without the column."""
        if isinstance(self.rows, Columns):
            found = self.rows.columns.get(name) or [None] * len(self)
        else:
            found = [row.get(name) for row in self.rows]
        if name not in self.contents:
            return found
        each = zip(found, self.contents[name], strict=True)
        return [value if content is None else content for value, content in each]

    def take(self, places: Sequence[int]) -> RawBatch:
        """Return the rows at rising places."""
        if len(places) == len(self):
            return self
        new = {place: number for number, place in enumerate(places)}
        rows = self.rows
        return RawBatch(
            rows.take(places) if isinstance(rows, Columns) else [rows[p] for p in places],
            self.file,
            [self.numbers[place] for place in places],
            {new[place]: fault for place, fault in self.faults.items() if place in new},
            {name: [of[place] for place in places] for name, of in self.contents.items()},
        )

    def each(self) -> Iterator[RawRow]:
        """Yield the rows one by one."""
        for index in range(len(self)):
            found = {name: of[index] for name, of in self.contents.items()}
            contents = {name: content for name, content in found.items() if content is not None}
            yield RawRow(self.rows[index], self.where(index), self.faults.get(index), contents)


def batched(
    items: Iterable[T], size: int, weigh: Callable[[T], int] = lambda item: 0
) -> Iterator[list[T]]:
    """Yield lists of `size` items, or of fewer where these weigh `BATCH_BYTES`. The last one may be
    short."""
    rest, some, weight = iter(items), list[T](), 0
    while piece := list(islice(rest, min(_WEIGHED_TOGETHER, size - len(some)))):
        some += piece
        weight += sum(map(weigh, piece))
        if len(some) >= size or weight >= BATCH_BYTES:
            yield some
            some, weight = [], 0
    if some:
        yield some
