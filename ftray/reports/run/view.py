"""The page of a training."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ftray.reports.answers.view import AnswersView
from ftray.reports.record import RunRecord
from ftray.reports.run.cost import Cost, Origin
from ftray.reports.run.data import DataView
from ftray.reports.run.result import Result
from ftray.reports.run.training import Training


@dataclass(frozen=True)
class RunView:
    """The sections of a training's page; a section whose part of the record is missing is empty."""

    run: RunRecord

    @property
    def kind(self) -> str:
        return "Sweep" if self.run.status.kind == "tune" else "Training"

    @property
    def sections(self) -> list[tuple[str, str]]:
        """The anchors and names of the sections that the page has."""
        found = [
            ("result", "Result", bool(self.result.metrics.rows)),
            ("training", "Training", bool(self.run.steps)),
            ("answers", "Answers", self.run.rows is not None),
            ("data", "Data", bool(self.run.samples.cleaning)),
            ("cost", "Parameters and time", True),
            ("repeat", "To repeat it", True),
        ]
        return [(anchor, name) for anchor, name, is_there in found if is_there]

    @cached_property
    def result(self) -> Result:
        return Result(self.run)

    @cached_property
    def training(self) -> Training:
        return Training(self.run)

    @cached_property
    def answers(self) -> AnswersView:
        return AnswersView(self.run)

    @cached_property
    def data(self) -> DataView:
        return DataView(self.run)

    @cached_property
    def cost(self) -> Cost:
        return Cost(self.run)

    @cached_property
    def origin(self) -> Origin:
        return Origin(self.run)
