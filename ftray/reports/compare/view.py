"""The page that compares runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ftray.models.artifact.worth import name_of
from ftray.reports.answers.mistakes import RowCard, cards
from ftray.reports.compare.difference import differing, origins, side_by_side
from ftray.reports.compare.paired import Paired, paired, same_rows
from ftray.reports.figures import Chart
from ftray.reports.page import duration, number
from ftray.reports.record import RunRecord
from ftray.reports.run.curves import side_by_side as curves
from ftray.reports.run.result import Result
from ftray.reports.tables import Cell, Table, is_number, table_of

_SHOWN = 9


@dataclass(frozen=True)
class Versus:
    """A run against the first one. verdict: a sentence; mended, broken: rows that changed sides."""

    name: str
    verdict: str
    gains: Table
    changed: str
    mended: list[RowCard]
    broken: list[RowCard]


@dataclass(frozen=True)
class CompareView:
    runs: Sequence[RunRecord]

    @property
    def names(self) -> list[str]:
        """A short name of each run: the run's, and the end of its id where several share it."""
        names = [run.name for run in self.runs]
        if len(set(names)) == len(names):
            return names
        return [f"{run.name} {run.run_id[-6:]}" for run in self.runs]

    @property
    def title(self) -> str:
        return " against ".join(self.names)

    @property
    def summary(self) -> Table:
        rows = [
            [
                name,
                run.run_id,
                run.status.kind,
                run.state,
                Cell(duration(run.seconds), run.seconds),
                f"{run.status.model}:{run.status.version}" if run.status.model else "",
            ]
            for name, run in zip(self.names, self.runs, strict=True)
        ]
        return table_of("Runs", ["run", "id", "kind", "state", "took", "model"], rows)

    @cached_property
    def metrics(self) -> Table:
        """Every metric of every split, with the best of each marked."""
        trees = [run.info.metrics if run.info else _best(run) for run in self.runs]
        found = side_by_side(trees)
        rows = []
        for key, values in found.items():
            if any(map(is_number, values)):
                split, _, metric = key.partition(".")
                shown = [value if is_number(value) else None for value in values]
                rows.append([f"{split.replace('_', ' ')}: {name_of(metric)}", *shown])
        return table_of("Metrics", ["", *self.names], rows)

    @cached_property
    def charts(self) -> list[Chart]:
        return list(curves(self.runs, self.names)) if any(run.epochs for run in self.runs) else []

    @property
    def spec(self) -> Table:
        return self._unequal("Spec", differing(self.runs))

    @property
    def origins(self) -> Table:
        return self._unequal("Data and environment", origins(self.runs))

    def _unequal(self, name: str, found: dict[str, list[object]]) -> Table:
        rows = [[key, *values] for key, values in found.items()]
        return table_of(name, ["", *self.names], rows, long=range(1, len(self.names) + 1))

    @property
    def unpaired(self) -> str:
        """Why the answers of the runs cannot be compared row by row; empty where they can."""
        if len({run.task.name for run in self.runs}) > 1:
            return "The runs have different tasks."
        if any(run.rows is None for run in self.runs):
            return "Not all of the runs have kept their answers to the test rows."
        if not same_rows(self.runs):
            return "The runs were tested on different rows."
        return ""

    @cached_property
    def versus(self) -> list[Versus]:
        if self.unpaired:
            return []
        first, *others = self.runs
        pairs = zip(self.names[1:], others, strict=True)
        return [self._versus(name, run, paired(run, first)) for name, run in pairs]

    def _versus(self, name: str, run: RunRecord, found: Paired) -> Versus:
        rows = [
            [
                name_of(metric),
                Cell(_signed(e.value), e.value),
                f"{_signed(e.low)} to {_signed(e.high)}",
            ]
            for metric, e in found.gains.items()
        ]
        assert run.rows is not None
        mended, broken = len(found.mended), len(found.broken)
        changed = f"{mended:,} rows mended, {broken:,} broken, of {len(run.rows):,}"
        return Versus(
            name,
            f"{name} {self._told(found)}.",
            table_of("Gains", ["better by", "", "95 %"], rows),
            changed if run.rows.are_judged else "",
            list(cards(run, found.mended[:_SHOWN], self.runs)),
            list(cards(run, found.broken[:_SHOWN], self.runs)),
        )

    def _told(self, found: Paired) -> str:
        better = [name_of(n) for n, e in found.gains.items() if e.low > 0]
        worse = [name_of(n) for n, e in found.gains.items() if e.high < 0]
        first = self.names[0]
        parts = [f"does better than {first} in {' and '.join(better)}"] if better else []
        parts += [f"does worse than {first} in {' and '.join(worse)}"] if worse else []
        return ", and ".join(parts) or f"cannot be told from {first}"


def _best(run: RunRecord) -> dict[str, dict[str, float]]:
    """Return the metrics of the best epoch, of a run that has no model."""
    lines = list(Result(run).measured())
    kept = {name: value for _, line in lines for name, value in line.items() if is_number(value)}
    return {"validation": kept} if kept else {}


def _signed(value: float) -> str:
    return f"{'+' if value > 0 else ''}{number(value)}"
