"""What cleaning did: how many rows were read, left out and kept, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

_LABELS_SHOWN = 12


@dataclass(frozen=True)
class SourceCount:
    """Rows of one source: `read` = kept + all of `dropped` (kind -> rows)."""

    read: int
    dropped: Mapping[str, int]

    @property
    def kept(self) -> int:
        return self.read - sum(self.dropped.values())


@dataclass(frozen=True)
class CleaningReport:
    """Counts of one reading of a data set."""

    sources: Mapping[str, SourceCount]
    """train, validation, test (those with a source of their own) -> its rows."""
    splits: Mapping[str, Mapping[str, int]]
    """Split -> label -> rows kept; the label is "" where rows have none."""
    notes: tuple[str, ...] = ()
    """What else the user should know."""

    def rows(self, split: str) -> int:
        return sum(self.splits[split].values())

    def to_json(self) -> dict[str, Any]:
        tree = asdict(self)
        tree["notes"] = list(self.notes)
        tree["rows"] = {split: self.rows(split) for split in self.splits}
        return tree

    def lines(self) -> Iterator[str]:
        """The report for people, a line a source and a split."""
        for name, count in self.sources.items():
            dropped = ", ".join(f"{rows:,} {kind}" for kind, rows in count.dropped.items())
            yield f"{name}: {count.read:,} rows read, {dropped or 'none'} left out"
        for split, labels in self.splits.items():
            if "" in labels:
                yield f"{split} split: {self.rows(split):,} rows"
                continue
            shown = [f"{label} {rows:,}" for label, rows in list(labels.items())[:_LABELS_SHOWN]]
            if len(labels) > _LABELS_SHOWN:
                shown.append(f"and {len(labels) - _LABELS_SHOWN} labels more")
            yield f"{split} split: {self.rows(split):,} rows ({', '.join(shown)})"
        yield from self.notes
