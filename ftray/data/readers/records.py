"""Assembles the records of a CSV file from its lines; a record may span several lines.

A quotation mark that opens a field, with a closing mark on a later line, is ambiguous: the two
marks may enclose a field that spans the lines, or both may be plain characters. A wrong reading
turns all rows between the marks into one. `Records` chooses the reading that gives rows with the
right number of fields. Where both readings do, the use of marks on other lines of the file decides.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from ftray.data.readers.dialect import Dialect, Field

_MOST_LINES = 10_000
"""Most lines of one field."""
_BEYOND_CHANCE = 20
"""Number of lines of one field that are each a whole row, too, from which on that is no chance."""
_MANY = 10
_PLACES = 3


@dataclass
class Evidence:
    """Counts that show how a file uses quotation marks. enclosed: fields in quotation marks;
    needed: enclosed fields that hold a separator or a quotation mark; stray: lines with marks that
    enclose nothing; spanning: fields over several lines that can be read in no other way."""

    enclosed: int = 0
    needed: int = 0
    stray: int = 0
    spanning: int = 0

    @property
    def are_characters(self) -> bool:
        """Whether the quotation marks of the file are plain characters and enclose no fields."""
        return self.stray > max(self.enclosed, _MANY * (self.needed + self.spanning))

    def is_one_field(self, lines: int, dialect: Dialect, columns: int) -> bool:
        """Return whether `lines` lines are one field although each of them makes a whole row."""
        if columns == 1:
            return True
        if self.spanning:
            return lines < _BEYOND_CHANCE
        # Programs that write tab-separated files put no line breaks into fields.
        return lines == 2 and self.enclosed > self.stray and dialect.separator != "\t"


@dataclass
class Places:
    """The number of lines that were added, and the first of them."""

    count: int = 0
    first: list[int] = field(default_factory=list)

    def add(self, line: int) -> None:
        self.count += 1
        if self.count <= _PLACES:
            self.first.append(line)

    def __str__(self) -> str:
        more = ", ..." if self.count > _PLACES else ""
        return f"line{'s'[: self.count != 1]} {', '.join(map(str, self.first))}{more}"


class Records:
    """Iterates over records: yields the line on which each record starts, and its fields.

    lines: with their line ends; columns: number of fields of a whole row, None to take it from the
    first record; evidence: gathered from lines of the file, None on a trial that gathers it.
    """

    def __init__(
        self,
        lines: Iterator[str],
        dialect: Dialect,
        columns: int | None,
        evidence: Evidence | None = None,
    ) -> None:
        self._lines, self._dialect, self._columns = lines, dialect, columns
        self._evidence = evidence
        self._ahead: deque[str] = deque()
        self._number = 0
        self.seen = Evidence()
        self.ragged = 0
        """Number of records with another number of fields than a whole row."""
        self.spans, self.characters = Places(), Places()

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        dialect = self._dialect
        while line := self._next():
            number, bare = self._number, line.rstrip("\r\n")
            if not bare:
                continue
            if not dialect.quote or dialect.quote not in bare:
                fields = dialect.split(bare)
            else:
                # A trial takes the slow path, which counts each quotation mark.
                quick = None if self._evidence is None else dialect.quick(bare)
                fields = self._quoted(line, bare) if quick is None else quick
            if self._columns is None:
                self._columns = len(fields)
            self.ragged += len(fields) != self._columns
            yield number, fields

    def _next(self) -> str | None:
        line = self._ahead.popleft() if self._ahead else next(self._lines, None)
        self._number += line is not None
        return line

    def _peek(self, count: int) -> str | None:
        """Return the line that is `count` lines ahead, without consuming it."""
        while len(self._ahead) <= count and (line := next(self._lines, None)) is not None:
            self._ahead.append(line)
        return self._ahead[count] if count < len(self._ahead) else None

    def _quoted(self, line: str, bare: str) -> list[str]:
        fields, opened = self._dialect.fields(bare)
        if opened is not None:
            lines, found = self._span(line)
            if lines > 1:
                self.spans.add(self._number)
                for _ in range(lines - 1):
                    self._next()
                return found
        if opened or any(item.has_marks for item in fields):
            self.seen.stray += 1
        if opened:
            self.characters.add(self._number)
        while opened is not None:
            more, opened = self._dialect.fields(bare, opened.field, character=opened.field)
            fields += more
        self._count(fields)
        return [item.text for item in fields]

    def _count(self, fields: list[Field]) -> None:
        marks = (self._dialect.separator, self._dialect.quote)
        for item in fields:
            if item.is_enclosed:
                self.seen.enclosed += 1
                self.seen.needed += any(mark in item.text for mark in marks)

    def _span(self, line: str) -> tuple[int, list[str]]:
        """Return the number of lines, from `line` on, of a record with an open field, and its
        fields; one line where the quotation mark is a plain character."""
        lines, fields = self._closed(line)
        if self._columns is None or len(lines) < 2:
            return len(lines), fields
        rows = [len(self._dialect.split(part)) == self._columns for part in lines]
        if len(fields) != self._columns:
            return (1 if any(rows) else len(lines)), fields
        # Quotation marks are doubled only inside enclosed fields.
        if not all(rows) or any(self._dialect.quote * 2 in part for part in lines):
            self.seen.spanning += 1
            return len(lines), fields
        # An ambiguous field is evidence of neither reading, so it is not counted.
        is_one = self._evidence is None or self._evidence.is_one_field(
            len(lines), self._dialect, self._columns
        )
        return (len(lines) if is_one else 1), fields

    def _closed(self, line: str) -> tuple[list[str], list[str]]:
        """Return the lines, without their ends, up to the line that closes all fields, and the
        fields; the first line alone where no line closes them."""
        dialect = self._dialect
        bare = line.rstrip("\r\n")
        fields, opened = dialect.fields(bare)
        lines, found = [bare], [item.text for item in fields]
        assert opened is not None
        text = line[opened.text :]
        while len(lines) < _MOST_LINES and (line_ := self._peek(len(lines) - 1)) is not None:
            bare = line_.rstrip("\r\n")
            lines.append(bare)
            if closing := dialect.closing(bare):
                found.append(dialect.content(text + bare[: closing.start(1)]))
                if closing.end() == len(bare):
                    return lines, found
                fields, opened = dialect.fields(bare, closing.end() + 1)
                found += [item.text for item in fields]
                if opened is None:
                    return lines, found
                text = line_[opened.text :]
            elif dialect.is_inside(bare):
                text += line_
            else:
                break
        return lines[:1], found
