"""Defines the input and the output of readers: a source, and its raw rows."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from ftray.errors import DataError, FtrayError, Problem
from ftray.spec.sections.delimited import DelimitedSpec
from ftray.store.files.location import Location
from ftray.tasks.base import BadRow
from ftray.tasks.info import EVERY_OTHER, Sequences


class RawRow(NamedTuple):
    """One raw row: column name of the source -> raw value. `where` is FILE:LINE, or FILE:ROW
    counted from 1 for formats without lines. `fault` is the reason why the row could not be read.
    `contents`: column name -> content of the file that the row names there."""

    values: Mapping[str, Any]
    where: str
    fault: BadRow | None = None
    contents: Mapping[str, bytes] = {}


@dataclass(frozen=True)
class Source:
    """One data source, with the settings for reading it and for naming it in an error."""

    key: str
    """The setting by which the user names the source: data.train, --data."""
    url: str
    columns: Mapping[str, str]
    """Logical column of the task -> name in the source."""
    encoding: str = "utf-8"
    split: str = "train"
    """The split of a Hub data set to read where the id names none."""
    files: frozenset[str] = frozenset()
    """Logical columns whose values are files: their content, or the name of a file."""
    beside: Mapping[str, str] = field(default_factory=dict)
    """Columns to read beside those of the task -> the key or option that names the column."""
    flags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Logical column of the task -> names of the several columns that it stands for."""
    every_column: bool = False
    """Whether rows keep the columns that `columns` does not name."""
    csv: DelimitedSpec = DelimitedSpec()
    sequences: Sequences | None = None
    """The columns of sequences, or of their events."""
    shares: Mapping[str, float] | None = None
    """Held-out split -> share of the learnt sequences whose last items the split gets; None for
    sequences that are asked."""
    seed: int = 0
    """Seed of the draw of these shares."""
    notes: list[str] = field(default_factory=list, compare=False)
    """Notes for the user that readers add."""

    @property
    def named(self) -> dict[str, str]:
        """`columns` without one that stands for all others; of sequences, the columns that they
        have when they are made."""
        if (of := self.sequences) is None:
            return {of: name for of, name in self.columns.items() if name != EVERY_OTHER}
        found = {of.items: self.columns.get(of.item, self.columns.get(of.items, of.items))}
        if of.next in self.columns or self.shares is not None:
            found[of.next] = self.columns.get(of.next, of.next)
        return found

    @property
    def file_columns(self) -> list[str]:
        """Names in the source of the columns whose values are files."""
        return [name for logical, name in self.columns.items() if logical in self.files]

    def note(self, text: str) -> None:
        self.notes.append(text)

    def error(self, problem: str, fix: str) -> FtrayError:
        """Return a DataError about this source."""
        return DataError.of(self.key, self.url, problem, fix)

    def columns_in(self, present: Sequence[str], where: str) -> list[str]:
        """Return the columns to read among those `present` in the file `where`, by their names in
        the file.

        Raises DataError when a needed column is missing or occurs twice.
        """
        names: list[str] = []
        faults: list[Problem] = []
        flags = ((logical, name) for logical, some in self.flags.items() for name in some)
        for logical, name in (*self.named.items(), *flags):
            if present.count(name) > 1:
                several = f"{where} has {present.count(name)} of them"
                raise self._column_error(logical, name, several)
            if name in present:
                names.append(name)
            else:
                there = ", ".join(present) or "none"
                lacking = f"no such column in {where}, which has: {there}"
                faults += self._column_error(logical, name, lacking, _hint(name, present)).problems
        if faults:
            raise DataError(*faults)
        for name, key in self.beside.items():
            if name not in present:
                there = ", ".join(present) or "none"
                lacking = f"no such column in {where}, which has: {there} ({self.key})"
                fix = f"{_hint(name, present)}Name another column."
                raise DataError.of(key, name, lacking, fix)
        if len(self.named) < len(self.columns):
            self._require_distinct(present, where)
            return list(present)
        if self.every_column:
            return list(present)
        return list(dict.fromkeys([*names, *self.beside]))

    def others(self, present: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
        """Yield the logical column that stands for all columns but those that have another use,
        where there is one, and the names of these among `present`."""
        used = {*self.columns.values(), *self.beside, *chain.from_iterable(self.flags.values())}
        for logical in self.columns.keys() - self.named.keys():
            yield logical, [other for other in present if other not in used]

    def _require_distinct(self, present: Sequence[str], where: str) -> None:
        for name, count in Counter(present).items():
            if count > 1:
                raise self.error(f"{count} columns of {where} are called {name!r}", "rename one")

    def _column_error(self, logical: str, name: str, problem: str, hint: str = "") -> FtrayError:
        return DataError.of(
            f"data.columns.{logical}",
            name,
            f"{problem} ({self.key})",
            f"{hint}Name the column of {self.key} that holds the {logical}.",
        )


def shown(file: Location) -> str:
    """Return the file's name for messages: the path relative to the working directory where the
    file is below it, else its URL."""
    path = Path(file.path)
    if file.url == file.path and path.is_relative_to(Path.cwd()):
        return str(path.relative_to(Path.cwd()))
    return file.url


def _hint(name: str, present: Sequence[str]) -> str:
    if len(present) == 1 and any(mark in present[0] for mark in ",;|\t"):
        return "The fields seem to be separated by something else: set data.csv.separator. "
    by_lower = {column.lower().strip(): column for column in present}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f"Did you mean {by_lower[close[0]]}? " if close else ""
