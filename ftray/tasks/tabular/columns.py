"""The columns of a table, as they are fitted to the training rows and kept with the model: bins of
numbers, vocabularies of categories.

A model of the table's own reads a token for each column, three for a date. Bins are in rising
order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from ftray.tasks.info import Modality

Kind = Literal["number", "category", "date", "text", "ignore"]
_MODALITIES: dict[str, Modality] = {
    "number": "number",
    "category": "category",
    "date": "date",
    "text": "note",
}
_MONTHS, _WEEKDAYS = range(1, 13), range(7)


class Column(BaseModel):
    """One column.

    rows, missing, distinct: of the training rows, how many there are, how many have no value, and
    how many different values. edges: inner edges of the bins of numbers, or of dates in days since
    1970. values: the categories that have a token of their own. summary: least value, quartiles and
    greatest value of numbers and dates. why: the reason for which the column is not read.
    """

    model_config = ConfigDict(frozen=True)
    name: str
    kind: Kind
    rows: int = 0
    missing: int = 0
    distinct: int = 0
    edges: tuple[float, ...] = ()
    values: tuple[str, ...] = ()
    summary: tuple[str, ...] = ()
    why: str = ""

    @property
    def is_read(self) -> bool:
        return self.kind != "ignore"

    @property
    def modality(self) -> Modality:
        return _MODALITIES[self.kind]

    @property
    def missing_token(self) -> str:
        return f"{self.name}?"

    @property
    def unseen_token(self) -> str:
        """Token of a category without a token of its own."""
        return f"{self.name}*"

    def bin_token(self, place: int) -> str:
        return f"{self.name} #{place}"

    def value_token(self, category: str) -> str:
        return f"{self.name}={category}"

    def part_token(self, part: str, number: int) -> str:
        """Return the token of a part of a date: its month, or its day of the week."""
        return f"{self.name} {part} {number}"

    @property
    def bins(self) -> list[str]:
        """Tokens of the bins, in rising order; none for columns without bins."""
        has_bins = self.kind in ("number", "date")
        return [self.bin_token(place) for place in range(len(self.edges) + 1)] if has_bins else []

    @property
    def tokens(self) -> list[str]:
        """All tokens of the column; none where a model of the table's own cannot read it."""
        if self.kind in ("text", "ignore"):
            return []
        found = [self.missing_token, self.unseen_token, *self.bins]
        found += [self.value_token(value) for value in self.values]
        if self.kind == "date":
            found += [self.part_token("month", month) for month in _MONTHS]
            found += [self.part_token("weekday", day) for day in _WEEKDAYS]
        return found


def lines_of(columns: Sequence[Column]) -> Iterator[str]:
    """Yield a table of the columns for people: kind, missing values, and what is known of the
    values."""
    head = [("column", "kind"), *((of.name, of.kind) for of in columns)]
    name, kind = (max(map(len, each)) for each in zip(*head, strict=True))
    yield f"{'column':{name}}  {'kind':{kind}}  missing  distinct  values"
    for of in columns:
        counts = f"{of.missing:7,}  {of.distinct:8,}"
        yield f"{of.name:{name}}  {of.kind:{kind}}  {counts}  {_told(of)}"


def _told(column: Column) -> str:
    if column.summary:
        return " ".join(column.summary)
    if column.values:
        shown, more = ", ".join(column.values[:4])[:60], column.distinct - 4
        return f"{shown}, and {more:,} more" if more > 0 else shown
    return column.why
