"""Splits a CSV line into fields, by separators, quotation marks and escapes."""

from __future__ import annotations

import csv
import re
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

QUOTE, ESCAPE = '"', "\\"


class Field(NamedTuple):
    """A field of a line. text: its content; is_enclosed: whether quotation marks enclose it;
    has_marks: whether it has unescaped quotation marks that are plain characters."""

    text: str
    is_enclosed: bool = False
    has_marks: bool = False


class Opened(NamedTuple):
    """A quoted field that its line does not close. field, text: positions in the line at which the
    field and its text begin."""

    field: int
    text: int


@dataclass(frozen=True)
class Dialect:
    """A CSV dialect. quote, escape: a character, or the empty string for none."""

    separator: str
    quote: str = QUOTE
    escape: str = ""

    def __post_init__(self) -> None:
        csv.field_size_limit(sys.maxsize)

    def split(self, line: str) -> list[str]:
        """Return the fields of a line (without its end), with every quotation mark read as a plain
        character."""
        if not self.escape or self.escape not in line:
            return line.split(self.separator)
        fields, place = [], 0
        while place <= len(line):
            end = self._end(line, place)
            fields.append(self._unescaped(line[place:end]))
            place = end + 1
        return fields

    def fields(
        self, line: str, place: int = 0, character: int | None = None
    ) -> tuple[list[Field], Opened | None]:
        """Return the fields of a line from `place` on, up to a field that the line does not close,
        and this field.

        A quotation mark is a plain character where it does not enclose a whole field, and at the
        beginning of the field at `character`.
        """
        if not self.quote:
            return [Field(text) for text in self.split(line[place:])], None
        fields: list[Field] = []
        while True:
            opening = None if place == character else self._opening.match(line, place)
            if opening and (closing := self.closing(line, opening.end())):
                text = line[opening.end() : closing.start(1)]
                fields.append(Field(self.content(text), is_enclosed=True))
                end = closing.end()
            elif opening and self.is_inside(line, opening.end()):
                return fields, Opened(place, opening.end())
            else:
                end = self._end(line, place)
                fields.append(self._bare(line[place:end]))
            if end == len(line):
                return fields, None
            place = end + 1

    def quick(self, line: str) -> list[str] | None:
        """Return the texts of `fields`, parsed by Python's csv module in strict mode; None for a
        line that the module may read differently: with spaces before quotation marks, or in a
        dialect with escapes."""
        if self.escape or self._spaced.search(line):
            return None
        try:
            return next(
                csv.reader((line,), delimiter=self.separator, quotechar=self.quote, strict=True)
            )
        except csv.Error:
            return None

    def closing(self, line: str, place: int = 0) -> re.Match[str] | None:
        """Match from `place`, which is inside a quoted field, to the quotation mark (group 1) that
        ends the field, and the spaces after it; None where the first single mark ends no field."""
        return self._closing.match(line, place)

    def is_inside(self, line: str, place: int = 0) -> bool:
        """Return whether the quoted field that `place` is inside continues beyond the line."""
        return self._inside.fullmatch(line, place) is not None

    def content(self, text: str) -> str:
        """Return the content of a quoted field, without escapes and doubled quotation marks."""
        return self._unescaped(text).replace(self.quote * 2, self.quote)

    def _bare(self, text: str) -> Field:
        unmarked = text.replace(self.escape + self.quote, "") if self.escape else text
        return Field(self._unescaped(text), has_marks=self.quote in unmarked)

    def _unescaped(self, text: str) -> str:
        return self._escaped.sub(r"\1", text) if self.escape and self.escape in text else text

    def _end(self, line: str, place: int) -> int:
        if not self.escape or self.escape not in line:
            end = line.find(self.separator, place)
            return len(line) if end < 0 else end
        found = self._unquoted.match(line, place)
        assert found, "nothing matches too"
        return found.end()

    @cached_property
    def _spaces(self) -> str:
        return "" if self.separator == " " else " *"

    @cached_property
    def _spaced(self) -> re.Pattern[str]:
        """Pattern of spaces before a field in quotation marks."""
        quote, separator = re.escape(self.quote), re.escape(self.separator)
        return re.compile(rf"(?:^|{separator}) +{quote}(?!{quote}[^{separator}])")

    @cached_property
    def _opening(self) -> re.Pattern[str]:
        return re.compile(self._spaces + re.escape(self.quote))

    @cached_property
    def _body(self) -> str:
        quote, escape = re.escape(self.quote), re.escape(self.escape)
        escaped = f"|{escape}." if escape else ""
        return f"(?s:[^{quote}{escape}]++|{quote}{quote}{escaped})*+"

    @cached_property
    def _closing(self) -> re.Pattern[str]:
        end = rf"(?={re.escape(self.separator)}|\Z)"
        return re.compile(f"{self._body}({re.escape(self.quote)}){self._spaces}{end}")

    @cached_property
    def _inside(self) -> re.Pattern[str]:
        return re.compile(self._body + (f"{re.escape(self.escape)}?" if self.escape else ""))

    @cached_property
    def _unquoted(self) -> re.Pattern[str]:
        escape, separator = re.escape(self.escape), re.escape(self.separator)
        return re.compile(rf"(?s:[^{escape}{separator}]++|{escape}.|{escape}\Z)*+")

    @cached_property
    def _escaped(self) -> re.Pattern[str]:
        characters = "".join(map(re.escape, {self.separator, self.quote, self.escape, "\n", "\r"}))
        return re.compile(f"{re.escape(self.escape)}([{characters}])")
