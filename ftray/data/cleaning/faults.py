"""Counts faulty rows and describes them to the user."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ftray.data.cleaning import spellings
from ftray.data.cleaning.report import NO_TOKENS, in_words
from ftray.data.readers.rows import Source
from ftray.errors import DataError, Problem, shorten
from ftray.tasks.base import BadRow

UNKNOWN_LABEL, BAD_ENCODING = "unknown_label", "bad_encoding"
PLACES_SHOWN = 3
# With this many undecodable rows for each non-ASCII row that decodes, the encoding is wrong, and
# not the rows.
_MOSTLY = 10
_SKIP = "Mend them, or set data.on_bad_row: skip to leave them out and list them in a file."


@dataclass(frozen=True)
class Dropped:
    """A row that is not used, with the reason."""

    source: str
    where: str
    kind: str
    detail: str
    values: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "where": self.where,
            "kind": self.kind,
            "detail": self.detail,
            "values": {name: _shown(value) for name, value in self.values.items()},
        }


def _shown(value: Any) -> Any:
    return f"{len(value):,} bytes" if isinstance(value, bytes) else value


@dataclass
class Faults:
    """Rows that cannot be used. counts: by kind, in the order in which kinds are met; first: the
    first few rows of each kind, place and detail."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    @classmethod
    def of(cls, kinds: Mapping[int, str], where: Callable[[list[int]], list[str]]) -> Faults:
        """Count rows by their numbers and kinds. where: returns the places of rows."""
        found = cls(Counter(kinds.values()))
        for kind in found.counts:
            rows = [row for row, of in kinds.items() if of == kind][:PLACES_SHOWN]
            found.first[kind] = [(place, "") for place in where(rows)]
        return found

    def add(self, where: str, fault: BadRow, rows: int = 1) -> None:
        """Count `rows` rows; one of them is at `where`."""
        self.counts[fault.kind] += rows
        places = self.first.setdefault(fault.kind, [])
        if len(places) < PLACES_SHOWN:
            places.append((where, fault.detail))

    @property
    def total(self) -> int:
        return self.counts.total()

    def copy(self) -> Faults:
        first = {kind: list(places) for kind, places in self.first.items()}
        return Faults(self.counts.copy(), first)

    def described(
        self,
        source: Source,
        read: int,
        unknown: Mapping[str, int],
        known: Collection[str],
        beyond_ascii: int,
    ) -> Problem | None:
        """Describe these among the `read` rows of a source; None where there are none.

        unknown: unknown label -> rows; known: the labels that a row may have; beyond_ascii: rows
        that decode and have other characters than ASCII
        """
        if not self.total:
            return None
        found = self.problem(source, read)
        if unknown:
            found = replace(found, problem=f"{found.problem}. {_unknown(unknown, known)}")
        if undecoded := self.counts[BAD_ENCODING]:
            advice = "Set data.encoding to the file's own, for example latin-1 or cp1252."
            found = replace(found, fix=f"{advice} Else {found.fix[:1].lower()}{found.fix[1:]}")
            if beyond_ascii * _MOSTLY < undecoded:
                mostly = (
                    f"Hardly a row beyond ASCII reads as {source.encoding}: "
                    "the whole source seems to be in another encoding"
                )
                found = replace(found, problem=f"{found.problem}. {mostly}")
        return found

    def problem(self, source: Source, read: int) -> Problem:
        """Describe these among the `read` rows of a source."""
        kinds = "; ".join(
            f"{in_words(kind, rows)} ({self._first(kind)})" for kind, rows in self.counts.items()
        )
        said = f"{self.total:,} of {read:,} rows cannot be used: {kinds}"
        return Problem(source.key, shorten(source.url), said, _SKIP)

    def _first(self, kind: str) -> str:
        shown = [f"{where}{': ' if detail else ''}{detail}" for where, detail in self.first[kind]]
        return ", ".join(shown) + (", ..." if self.counts[kind] > len(shown) else "")

    def none_left(self, source: Source) -> Exception:
        """Return the error about a source, or a split of it, of which no row gives an example."""
        if set(self.counts) == {NO_TOKENS}:
            problem = f"the model's tokenizer makes no token of any of its {self.total:,}"
            return source.error(f"{problem} usable rows", "name a model for texts like these")
        kind = next(iter(self.counts)).replace("_", " ")
        problem = f"none of its {self.total:,} usable rows can be read ({kind})"
        return source.error(problem, "name a source with good rows")


def no_usable_row(source: Source, kinds: Mapping[str, int]) -> Exception:
    """Return the error about a source of which all rows are left out. kinds: kind -> rows."""
    told = ", ".join(in_words(kind, rows) for kind, rows in sorted(kinds.items()))
    return source.error(f"no usable row is left ({told})", "name a source with good rows")


def refuse_faults(problems: Iterable[Problem | None]) -> None:
    """Raise DataError with the problems of sources that have faulty rows."""
    if found := [problem for problem in problems if problem is not None]:
        raise DataError(*found)


def _unknown(unknown: Mapping[str, int], known: Collection[str]) -> str:
    told = f"Unknown: {spellings.counted(unknown)}; known: {spellings.named(known)}"
    close = {label: spellings.nearest(label, known) for label in unknown}
    found = [f"{label!r} for {name!r}" for label, name in close.items() if name]
    return told + (f"; by case only differ {', '.join(found[:PLACES_SHOWN])}" if found else "")
