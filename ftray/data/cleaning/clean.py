"""Cleans rows: finds faulty rows, duplicates and leaked rows, counts them and sets them aside.

A row is either kept, or listed in `dropped` with its kind. Kinds are the task's faults (empty_text,
missing_label, ...), reading faults (ragged, not_json, bad_encoding), unknown_label, and three kinds
about duplicates ("twins" in names), which are no faults of a row:

duplicate              a later duplicate with the same label in the same split
conflicting_duplicate  duplicates in one split with different labels; all of them are dropped, since
                       nothing tells which label is right
leaked                 a row with a duplicate in the validation or test split
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import pyarrow as pa

from ftray.data.cleaning import spellings
from ftray.data.cleaning.report import SourceCount, in_words
from ftray.data.readers.rows import RawRow, Source
from ftray.errors import DataError, Problem, shorten
from ftray.tasks import Task
from ftray.tasks.base import BadRow, Row
from ftray.tasks.info import Modality
from ftray.tasks.labels import label_name

DUPLICATE, CONFLICT, LEAKED = "duplicate", "conflicting_duplicate", "leaked"
UNKNOWN_LABEL, BAD_ENCODING = "unknown_label", "bad_encoding"
_TWINS = {DUPLICATE, CONFLICT, LEAKED}
_PLACES_SHOWN = 3
# With this many undecodable rows for each non-ASCII row that decodes, the encoding is wrong, and
# not the rows.
_MOSTLY = 10
# Lone surrogates: bytes that did not fit the encoding, or half a character that JSON escapes.
_SURROGATE = re.compile("[\ud800-\udfff]")


class CleanRow(NamedTuple):
    """A usable row, the identity that its duplicates share, and the raw row that it was made of.
    question: in place of `row` where answers are not read."""

    row: Row
    identity: str
    raw: RawRow
    question: Any = None


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


@dataclass
class SourceRows:
    """The rows of one source during cleaning."""

    name: str
    source: Source
    kept: list[CleanRow] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    known: tuple[str, ...] = ()
    """The labels that a row may have, where `drop_unknown` checked them."""

    @property
    def identities(self) -> set[str]:
        return {item.identity for item in self.kept}

    def drop(self, raw: RawRow, fault: BadRow) -> None:
        self.dropped.append(Dropped(self.name, raw.where, fault.kind, fault.detail, raw.values))

    def filter_rows(self, judge: Callable[[CleanRow], BadRow | None]) -> None:
        """Drop every kept row for which `judge` returns a fault."""
        kept = []
        for item in self.kept:
            if fault := judge(item):
                self.drop(item.raw, fault)
            else:
                kept.append(item)
        self.kept = kept

    def count(self) -> SourceCount:
        kinds = Counter(row.kind for row in self.dropped)
        return SourceCount(len(self.kept) + len(self.dropped), dict(sorted(kinds.items())))


def clean(
    name: str, source: Source, rows: Iterable[RawRow], task: Task, answered: bool = True
) -> SourceRows:
    """Separate the rows that the task can use from the rows that it cannot.

    Where `answered` is false, only the question of a row is read, and duplicates cannot be found.
    Raises DataError where there are no rows.
    """
    part = SourceRows(name, source)
    for raw in rows:
        try:
            part.kept.append(_kept(raw, source, task, answered))
        except BadRow as fault:
            part.drop(raw, fault)
    if not part.kept and not part.dropped:
        raise source.error("no rows in it", "name a source with rows")
    return part


def _kept(raw: RawRow, source: Source, task: Task, answered: bool) -> CleanRow:
    if raw.fault is not None:
        raise raw.fault
    values: dict[str, Any] = {
        logical: raw.contents[name] if name in raw.contents else raw.values.get(name)
        for logical, name in source.columns.items()
    }
    for logical, names in source.flags.items():
        values[logical] = {name: raw.values.get(name) for name in names}
    for value in values.values():
        if isinstance(value, str) and not value.isascii() and (found := _SURROGATE.search(value)):
            raise BadRow(BAD_ENCODING, _undecoded(found))
    if not answered:
        return CleanRow({}, "", raw, task.ask(values))
    row = task.parse(values)
    return CleanRow(row, task.key(row), raw)


def _undecoded(found: re.Match[str]) -> str:
    code = ord(found.group())
    # Decoding with "surrogateescape" turns a byte 0xNN that does not fit into U+DCNN.
    what = f"byte 0x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else ascii(found.group())
    return f"{what} at character {found.start() + 1}"


def drop_twins(part: SourceRows, task: Task) -> None:
    """Keep the first of several duplicates; keep none where their labels differ."""
    targets: dict[str, str] = {}
    contradicted = set()
    for item in part.kept:
        if targets.setdefault(item.identity, task.stratum(item.row)) != task.stratum(item.row):
            contradicted.add(item.identity)
    first: dict[str, str] = {}

    def judge(item: CleanRow) -> BadRow | None:
        if item.identity in contradicted:
            return BadRow(CONFLICT, "its twins have other labels")
        if item.identity in first:
            return BadRow(DUPLICATE, f"of {first[item.identity]}")
        first[item.identity] = item.raw.where
        return None

    part.filter_rows(judge)


def drop_leaked(part: SourceRows, other: SourceRows) -> None:
    """Drop the rows of `part` that have a duplicate in `other`, whatever their labels."""
    theirs = other.identities
    fault = BadRow(LEAKED, f"its twin is in {other.name}")
    part.filter_rows(lambda item: fault if item.identity in theirs else None)


def drop_unknown(part: SourceRows, task: Task, labels: Collection[str]) -> None:
    """Drop the rows with a label that is not in `labels`."""
    part.known = tuple(labels)
    known = {label_name(label) for label in labels}

    def judge(item: CleanRow) -> BadRow | None:
        strange = (label for label in task.labels_of(item.row) if label not in known)
        label = next(strange, None)
        return None if label is None else BadRow(UNKNOWN_LABEL, shorten(label, 40))

    part.filter_rows(judge)


def require_rows(part: SourceRows) -> None:
    """Raise DataError when no row is left."""
    if not part.kept:
        kinds = ", ".join(in_words(kind, rows) for kind, rows in part.count().dropped.items())
        raise part.source.error(f"no usable row is left ({kinds})", "name a source with good rows")


def refuse_faults(parts: Iterable[SourceRows]) -> None:
    """Raise DataError with one problem for each source that has faulty rows; duplicates are no
    faults."""
    problems = [found for part in parts if (found := _problem(part))]
    if problems:
        raise DataError(*problems)


def _problem(part: SourceRows) -> Problem | None:
    faulty = [row for row in part.dropped if row.kind not in _TWINS]
    if not faulty:
        return None
    found = problem(part.source, faulty, part.count().read)
    if unknown := Counter(row.detail for row in faulty if row.kind == UNKNOWN_LABEL):
        found = replace(found, problem=f"{found.problem}. {_unknown(unknown, part.known)}")
    if undecoded := sum(row.kind == BAD_ENCODING for row in faulty):
        advice = "Set data.encoding to the file's own, for example latin-1 or cp1252."
        found = replace(found, fix=f"{advice} Or: {found.fix}")
        fit = sum(not "".join(map(str, item.row.values())).isascii() for item in part.kept)
        if fit * _MOSTLY < undecoded:
            mostly = (
                f"Hardly a row beyond ASCII reads as {part.source.encoding}: "
                "the whole source seems to be in another encoding"
            )
            found = replace(found, problem=f"{found.problem}. {mostly}")
    return found


def problem(source: Source, faulty: Iterable[Dropped], read: int) -> Problem:
    """Describe the faulty rows among the `read` rows of a source."""
    places: dict[str, list[Dropped]] = {}
    for row in faulty:
        places.setdefault(row.kind, []).append(row)
    count = sum(map(len, places.values()))
    kinds = "; ".join(
        f"{in_words(kind, len(rows))} ({_first(rows)})" for kind, rows in places.items()
    )
    said = f"{count:,} of {read:,} rows cannot be used: {kinds}"
    fix = "Mend them, or set data.on_bad_row: skip to leave them out and list them in a file."
    return Problem(source.key, shorten(source.url), said, fix)


def _unknown(unknown: Mapping[str, int], known: Collection[str]) -> str:
    told = f"Unknown: {spellings.counted(unknown)}; known: {spellings.named(known)}"
    close = {label: spellings.nearest(label, known) for label in unknown}
    found = [f"{label!r} for {name!r}" for label, name in close.items() if name]
    return told + (f"; by case only differ {', '.join(found[:_PLACES_SHOWN])}" if found else "")


def _first(rows: list[Dropped]) -> str:
    shown = [f"{row.where}{': ' if row.detail else ''}{row.detail}" for row in rows]
    more = ", ..." if len(rows) > _PLACES_SHOWN else ""
    return ", ".join(shown[:_PLACES_SHOWN]) + more


def label_counts(kept: Iterable[CleanRow], task: Task) -> dict[str, int]:
    """Count rows: label -> rows, sorted by label; "" -> rows for a task without labels."""
    return dict(sorted(Counter(task.stratum(item.row) for item in kept).items()))


def spelling_notes(part: SourceRows, task: Task) -> Iterator[str]:
    """Yield notes for the user about the spelling of the labels of `part`."""
    if task.info.has_labels:
        column = part.source.columns[task.info.answers[0]]
        raw = (item.raw.values[column] for item in part.kept)
        yield from spellings.spelling_notes(raw, label_counts(part.kept, task))


def places(kept: Iterable[CleanRow]) -> pa.Array:
    """Return the place of each row, FILE:LINE."""
    return pa.array([item.raw.where for item in kept], pa.large_string())


_STORED: Mapping[Modality, pa.DataType] = {
    # large_string has 64-bit offsets: the texts of a split may exceed 2 GB.
    **dict.fromkeys(("text", "texts", "chat", "category", "spans"), pa.large_string()),
    "number": pa.list_(pa.float64()),
    "image": pa.large_binary(),
}


def table(kept: Iterable[CleanRow], columns: Mapping[str, Modality]) -> pa.Table:
    """Return a table of the rows, with one column for each of `columns` that the rows have."""
    rows = [item.row for item in kept]
    arrays = {
        name: pa.array([row[name] for row in rows], _STORED[modality])
        for name, modality in columns.items()
        if not rows or name in rows[0]
    }
    return pa.table(arrays)


def _shown(value: Any) -> Any:
    return f"{len(value):,} bytes" if isinstance(value, bytes) else value
