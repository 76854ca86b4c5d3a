"""Shows a training: its curves, its phases, and the epoch that was kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ftray.models.artifact.worth import name_of
from ftray.reports.figures import Chart
from ftray.reports.page import number, size
from ftray.reports.record import RunRecord
from ftray.reports.run.curves import training_charts
from ftray.reports.tables import Cell, Table, table_of


@dataclass(frozen=True)
class Training:
    run: RunRecord

    @cached_property
    def charts(self) -> list[Chart]:
        return list(training_charts(self.run))

    @property
    def best(self) -> str:
        """Say which epoch was kept, and why."""
        best, epochs = self.run.best_epoch, self.run.spec["train"]["epochs"]
        if best is None:
            return ""
        metric, value = name_of(self.run.metric), number(best[self.run.metric])
        which = "lowest" if self.run.lower_is_better else "highest"
        kept = f"Epoch {best['epoch']} of {epochs} was kept: its validation {metric}, {value}"
        return f"{kept}, is the {which}.{self._ended(len(self.run.epochs), epochs)}"

    def _ended(self, done: int, epochs: int) -> str:
        if done >= epochs:
            return ""
        if self.run.state == "done":
            return f" The training stopped early, after epoch {done}."
        return f" {done} of {epochs} epochs are done."

    @property
    def warnings(self) -> list[str]:
        return list(dict.fromkeys(e["message"] for e in self.run.of_kind("warning")))

    @property
    def phases(self) -> Table:
        rows = []
        for place, phase in enumerate(self.run.phases, 1):
            some, total = phase["trainable_parameters"], phase["total_parameters"]
            share = Cell(f"{some / total:.1%}", some / total)
            rows.append([place, phase["epoch"] + 1, phase["step"], Cell(size(some), some), share])
        return table_of("Phases", ["phase", "from epoch", "step", "parameters", "share"], rows)
