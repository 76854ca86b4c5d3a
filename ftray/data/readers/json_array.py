"""Reads a JSON array piece by piece: memory holds some of its elements at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

_LINES = 4096
_LARGEST = 2**26
"""Most characters of an element: one that is not JSON would else take the rest of the file."""
_SPACE = re.compile(r"[ \t\r\n]*")


def elements(lines: Iterable[str]) -> Iterator[tuple[Any, int]]:
    """Yield the elements of the array that `lines` are, and how many characters each has. Raises
    json.JSONDecodeError, whose line is that of the text, where the text is something else;
    ValueError for numbers and RecursionError for nesting beyond reason."""
    text = _Text(iter(lines))
    text.skip("[")
    if text.next() == "]":
        text.skip("]")
    else:
        yield text.value()
        while text.next() != "]":
            text.skip(",")
            yield text.value()
        text.skip("]")
    if text.next():
        raise text.error("Extra data", text.place)


class _Text:
    """The part of a text that is not read yet. place: index in it."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines, self._decoder = lines, json.JSONDecoder()
        self._rest, self.place, self._gone = "", 0, 0

    def next(self) -> str:
        """Return the next character that is no white space; nothing at the end of the text."""
        while True:
            self.place = self._after_space()
            if self.place < len(self._rest) or not self._more():
                return self._rest[self.place : self.place + 1]

    def skip(self, character: str) -> None:
        if self.next() != character:
            raise self.error(f"Expecting {character!r}", self.place)
        self.place += 1

    def value(self) -> tuple[Any, int]:
        self.next()
        while True:
            try:
                found, end = self._decoder.raw_decode(self._rest, self.place)
            except json.JSONDecodeError as error:
                if len(self._rest) - self.place > _LARGEST or not self._more():
                    raise self.error(error.msg, error.pos) from None
                continue
            # A number may go on in the next piece.
            if end < len(self._rest) or not self._more():
                size, self.place = end - self.place, end
                return found, size

    def error(self, problem: str, place: int) -> json.JSONDecodeError:
        error = json.JSONDecodeError(problem, self._rest, place)
        error.lineno += self._gone
        error.args = (f"{problem}: line {error.lineno} column {error.colno}",)
        return error

    def _after_space(self) -> int:
        found = _SPACE.match(self._rest, self.place)
        assert found, "nothing matches too"
        return found.end()

    def _more(self) -> bool:
        """Put more lines behind the part that is not read; return whether there are any."""
        more = "".join(islice(self._lines, _LINES))
        self._gone += self._rest.count("\n", 0, self.place)
        self._rest, self.place = self._rest[self.place :] + more, 0
        return bool(more)
