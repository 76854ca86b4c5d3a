"""Shows the data of a run: its sources, the rows that cleaning left out, and the splits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ftray.data.cleaning.report import in_words
from ftray.reports.record import RunRecord
from ftray.reports.tables import Table, table_of

_LABELS_SHOWN = 12
_LENGTHS = {"median": "median tokens", "p90": "90 % up to", "longest": "longest", "longer": "cut"}


@dataclass(frozen=True)
class DataView:
    run: RunRecord

    @property
    def sources(self) -> Table:
        rows = []
        for name, count in self.run.samples.cleaning.get("sources", {}).items():
            dropped = (in_words(kind, n) for kind, n in count["dropped"].items())
            rows.append([name, self._source(name), count["read"], ", ".join(dropped) or "none"])
        return table_of("Sources", ["source", "", "rows read", "left out"], rows, long=(1, 3))

    def _source(self, name: str) -> Any:
        found = self.run.spec["data"].get(name)
        return found if isinstance(found, (str, list)) else ""

    @property
    def notes(self) -> list[str]:
        return list(self.run.samples.cleaning.get("notes", ()))

    @property
    def splits(self) -> Table:
        """The rows of each split and label, and how long the rows are."""
        found, lengths = self.run.samples.cleaning.get("splits", {}), self.run.samples.lengths
        labels = sorted({label for counts in found.values() for label in counts if label})
        few = labels if len(labels) <= _LABELS_SHOWN else []
        sized = _LENGTHS if any(each.get("longest") for each in lengths.values()) else {}
        rows = [
            [split, sum(counts.values()), *(counts.get(label, 0) for label in few)]
            + [lengths.get(split, {}).get(name) for name in sized]
            for split, counts in found.items()
        ]
        return table_of("Splits", ["split", "rows", *few, *sized.values()], rows)

    @property
    def quarantine(self) -> Table:
        rows = [
            [
                _tail(row["where"]),
                row["kind"].replace("_", " "),
                _tail(row["detail"]),
                row["values"],
            ]
            for row in self.run.samples.quarantine
        ]
        return table_of("Rows left out", ["where", "why", "", "row"], rows, long=(2, 3))


def _plain(kind: str) -> str:
    return kind.replace("_", " ")


def _tail(place: str) -> str:
    """Return a text without the folders of the file that it names."""
    return re.sub(r"\S*/", "", place)
