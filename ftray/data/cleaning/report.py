"""Reports the result of cleaning: how many rows were read, left out and kept, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

NO_TOKENS = "no_tokens"
"""Kind of a row that the model's tokenizer makes no token of."""
_LABELS_SHOWN = 12
_WORDS = {
    "bad_encoding": ("row that does not decode", "rows that do not decode"),
    "conflicting_duplicate": ("duplicate with another label", "duplicates with other labels"),
    "duplicate": ("duplicate", "duplicates"),
    "empty_text": ("row without text", "rows without text"),
    "leaked": ("row that another split has", "rows that another split has"),
    "missing_label": ("row without a label", "rows without a label"),
    "not_json": ("line that is not JSON", "lines that are not JSON"),
    NO_TOKENS: ("row that gives the model no token", "rows that give the model no token"),
    "ragged": ("row with other fields", "rows with other fields"),
    "unknown_label": ("row with an unknown label", "rows with an unknown label"),
}
"""Kind of a row that is left out -> its description, singular and plural."""


@dataclass(frozen=True)
class SourceCount:
    """Row counts of one source: `read` = kept + the sum of `dropped` (kind -> rows)."""

    read: int
    dropped: Mapping[str, int]

    @property
    def kept(self) -> int:
        return self.read - sum(self.dropped.values())


@dataclass(frozen=True)
class CleaningReport:
    """Counts of one reading of a data set."""

    sources: Mapping[str, SourceCount]
    """train, validation, test (where they have their own source) -> row counts of the source."""
    splits: Mapping[str, Mapping[str, int]]
    """Split -> label -> rows kept; the label is "" where rows have none."""
    notes: tuple[str, ...] = ()
    """Further notes for the user."""

    @classmethod
    def of_json(cls, tree: Mapping[str, Any]) -> CleaningReport:
        """Read the report that `to_json` wrote."""
        sources = {name: SourceCount(**count) for name, count in tree["sources"].items()}
        return cls(sources, tree["splits"], tuple(tree["notes"]))

    @property
    def rows_by_label(self) -> Mapping[str, Mapping[str, int]]:
        """Split -> label -> rows; empty where rows have no labels."""
        return {} if any("" in labels for labels in self.splits.values()) else self.splits

    def rows(self, split: str) -> int:
        return sum(self.splits[split].values())

    def to_json(self) -> dict[str, Any]:
        tree = asdict(self)
        tree["notes"] = list(self.notes)
        tree["rows"] = {split: self.rows(split) for split in self.splits}
        return tree

    def source_lines(self) -> Iterator[str]:
        """Yield a line for each source: how many rows were read, and which were left out."""
        for name, count in self.sources.items():
            dropped = ", ".join(in_words(kind, rows) for kind, rows in count.dropped.items())
            read = f"{count.read:,} {'row' if count.read == 1 else 'rows'} read"
            yield f"{name}: {read}, {dropped or 'none'} left out"

    def lines(self) -> Iterator[str]:
        """Yield the report for people: one line for each source and each split, and the notes."""
        yield from self.source_lines()
        for split, labels in self.splits.items():
            if "" in labels:
                yield f"{split} split: {self.rows(split):,} rows"
                continue
            shown = [f"{label} {rows:,}" for label, rows in list(labels.items())[:_LABELS_SHOWN]]
            if len(labels) > _LABELS_SHOWN:
                shown.append(f"and {len(labels) - _LABELS_SHOWN} labels more")
            yield f"{split} split: {self.rows(split):,} rows ({', '.join(shown)})"
        yield from self.notes


def in_words(kind: str, rows: int) -> str:
    """Say in words how many rows of a kind are left out."""
    plain = kind.replace("_", " ")
    one, several = _WORDS.get(kind, (f"row ({plain})", f"rows ({plain})"))
    return f"{rows:,} {one if rows == 1 else several}"
