"""Shows the answers to the test rows: right and wrong ones, how sure, and for which rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ftray.reports.answers import plots
from ftray.reports.answers.mistakes import RowCard, mistakes, surprises
from ftray.reports.answers.plots import LabelView
from ftray.reports.figures import Chart
from ftray.reports.record import RunRecord
from ftray.reports.tables import Table, interval, table_of

_CALIBRATED = 0.05
"""Distance from 1 up to which a temperature changes nothing that matters."""


@dataclass(frozen=True)
class AnswersView:
    run: RunRecord

    @cached_property
    def labels(self) -> LabelView | None:
        """Confusions, scores and calibration; None for a task without labels."""
        rows, info = self.run.rows, self.run.info
        if rows is None or info is None or not self.run.task.has_labels:
            return None
        return plots.label_view(rows, info.labels)

    @property
    def sampled(self) -> str:
        rows = self.run.rows
        if rows is None or len(rows) == rows.split_rows:
            return ""
        return f"{len(rows):,} rows, spread evenly over the {rows.split_rows:,} of the test split."

    @property
    def label_table(self) -> Table:
        assert self.labels is not None
        rows = [
            [
                each.score.label,
                each.score.rows,
                interval(each.score.precision, *each.precision),
                interval(each.score.recall, *each.recall),
                interval(each.score.f1, *each.f1),
            ]
            for each in self.labels.scores
        ]
        columns = ["label", "rows", "precision", "recall", "F1"]
        return table_of("Scores of each label", columns, rows, sortable=True)

    @property
    def pairs(self) -> Table:
        assert self.labels is not None
        rows = [[pair["label"], pair["predicted"], pair["rows"]] for pair in self.labels.pairs]
        return table_of("Confusions", ["truth", "taken for", "rows"], rows)

    @property
    def calibrated(self) -> str:
        found = self.labels.calibration if self.labels else None
        if found is None:
            return ""
        lead = f"Calibration error: {found.ece:.1%} between confidence and accuracy on average. "
        if abs(found.temperature - 1) < _CALIBRATED:
            return f"{lead}The model is about as sure as it is right."
        sure = "too sure of itself" if found.temperature > 1 else "less sure than it could be"
        after = f"A temperature of {found.temperature:.2f} would make it {found.scaled_ece:.1%}"
        return f"{lead}{after}: the model is {sure}."

    @cached_property
    def charts(self) -> list[Chart]:
        rows = self.run.rows
        if rows is None or not len(rows):
            return []
        found: list[Chart | None] = []
        if self.labels is not None and self.labels.calibration is not None:
            found.append(plots.reliability(self.labels.calibration))
        if self.run.task.output == "numbers":
            found += plots.number_charts(rows)
        elif self.labels is None:
            found.append(plots.error_histogram(rows))
        found.append(plots.by_length(rows, shares=self.labels is not None))
        return [each for each in found if each is not None]

    @cached_property
    def mistakes(self) -> list[RowCard]:
        return mistakes(self.run)

    @property
    def mistakes_title(self) -> str:
        rows = self.run.rows
        return "Worst mistakes" if rows is not None and rows.are_judged else "Highest losses"

    @cached_property
    def surprises(self) -> list[RowCard]:
        return surprises(self.run)
