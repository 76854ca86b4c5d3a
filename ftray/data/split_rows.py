"""The rows of a split: numbers of rows of a source, whose values are read when they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ftray.data.cleaning.clean import table
from ftray.data.cleaning.source_rows import SourceRows
from ftray.store.files import checksum


@dataclass(frozen=True, eq=False)
class SplitRows:
    """The rows `numbers` of `source`, int64 and rising. Indices in arguments count the rows of the
    split from 0, and are rising."""

    source: SourceRows
    numbers: np.ndarray

    @property
    def num_rows(self) -> int:
        return len(self.numbers)

    @property
    def columns(self) -> Sequence[str]:
        """Names of the columns that rows have."""
        return self.source.names

    @property
    def digests(self) -> np.ndarray:
        """A digest of the values of each row, (rows,) uint64."""
        return self.source.digests[self.numbers]

    def label_counts(self, indices: Sequence[int] | None = None) -> dict[str, int]:
        """Count the rows of each label, of all rows or of some; "" stands for no label."""
        return self.source.label_counts(self._numbers(indices))

    def labels(self) -> set[str]:
        """Return the labels that the rows have."""
        return self.source.labels(self.numbers)

    def places(self, indices: Sequence[int]) -> list[str]:
        """Return the place of rows, FILE:LINE."""
        return self.source.places(self._numbers(indices))

    def beside(self, column: str, key: str) -> list[Any]:
        """Return the raw value of each row in a column of the source that the task does not read.
        key: names the column in errors. Raises DataError."""
        return self.source.beside(self.numbers, column, key)

    def tables(self, indices: Sequence[int] | np.ndarray | None = None) -> Iterator[pa.Table]:
        """Read rows again: yield a batch at a time, with the task's columns."""
        for _, columns in self.source.read(self._numbers(indices)):
            yield table(columns, self.source.modalities)

    def table(self, where: bool = False) -> pa.Table:
        """Return all rows in memory; with their places in a column `where` if asked."""
        found = pa.concat_tables(self.tables()).combine_chunks()
        if where:
            places = self.source.places(self.numbers)
            found = found.append_column("where", pa.array(places, pa.large_string()))
        return found

    def _numbers(self, indices: Sequence[int] | np.ndarray | None) -> np.ndarray:
        return self.numbers if indices is None else self.numbers[np.asarray(indices, np.int64)]


class Block(NamedTuple):
    """Consecutive rows of a split. number: of the block in its split; first: index of its first
    row; digest: of the values of its rows."""

    split: str
    number: int
    first: int
    digest: str
    rows: pa.Table


class _Gathered:
    """Rows of one split that wait until they fill a block."""

    def __init__(self, split: str, of: SplitRows) -> None:
        self._split, self._of, self._number, self._first = split, of, 0, 0
        self._parts: list[pa.Table] = []

    def add(self, part: pa.Table) -> None:
        self._parts.append(part)

    def full(self, size: int) -> Iterator[Block]:
        """Yield the blocks of `size` rows that are there."""
        while sum(part.num_rows for part in self._parts) >= size:
            whole = pa.concat_tables(self._parts)
            self._parts = [whole.slice(size)]
            yield self._block(whole.slice(0, size))

    def rest(self) -> Iterator[Block]:
        if rows := [part for part in self._parts if part.num_rows]:
            yield self._block(pa.concat_tables(rows))

    def _block(self, rows: pa.Table) -> Block:
        numbers = self._of.numbers[self._first : self._first + rows.num_rows]
        digest = checksum.of_content(self._of.source.digests[numbers].tobytes())
        block = Block(self._split, self._number, self._first, digest, rows.combine_chunks())
        self._number += 1
        self._first += rows.num_rows
        return block


def blocks(splits: Mapping[str, SplitRows], size: int) -> Iterator[Block]:
    """Yield the rows of splits of one source in blocks of `size` rows, in one reading of it."""
    (source,) = {of.source for of in splits.values()}
    rows = np.sort(np.concatenate([of.numbers for of in splits.values()]))
    own = np.zeros(int(rows[-1]) + 1, dtype=np.int8)
    for place, of in enumerate(splits.values()):
        own[of.numbers] = place
    gathered = [_Gathered(name, of) for name, of in splits.items()]
    for here, columns in source.read(rows):
        part, owners = table(columns, source.modalities), own[here]
        for place, waiting in enumerate(gathered):
            waiting.add(part.filter(pa.array(owners == place)))
            yield from waiting.full(size)
    for waiting in gathered:
        yield from waiting.rest()
