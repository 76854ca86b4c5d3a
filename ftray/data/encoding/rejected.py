"""Handles rows that the model's processor makes nothing of: bad rows that only encoding finds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from ftray.data.cleaning.faults import Faults
from ftray.data.cleaning.report import CleaningReport
from ftray.data.dataset import Dataset
from ftray.data.split_rows import SplitRows
from ftray.errors import DataError
from ftray.spec.schema import Spec


def without_rejected(
    dataset: Dataset, found: Mapping[str, Mapping[int, str]], spec: Spec
) -> Dataset:
    """Return `dataset` with the rows `found` (split -> index in it -> kind of fault) counted in its
    report, and among the rows left out. Raises DataError where bad rows are not to be skipped, or a
    split has no other row."""
    report, problems = dataset.report, []
    for split, kinds in found.items():
        if not kinds:
            continue
        rows = dataset.splits[split]
        source, name = rows.source.source, rows.source.name
        if spec.data.on_bad_row == "fail":
            read = report.sources[name].read
            problems.append(Faults.of(kinds, rows.places).problem(source, read))
        elif len(kinds) == rows.num_rows:
            raise Faults.of(kinds, rows.places).none_left(source)
        report = _counted(report, split, rows, kinds)
    if problems:
        raise DataError(*problems)
    return replace(dataset, report=report, rejected=found)


def _counted(
    report: CleaningReport, split: str, rows: SplitRows, kinds: Mapping[int, str]
) -> CleaningReport:
    """Return `report` with some rows of a split counted as left out."""
    name, labels = rows.source.name, dict(report.splits[split])
    for label, count in rows.label_counts(sorted(kinds)).items():
        labels[label] -= count
    counts = Counter(report.sources[name].dropped) + Counter(kinds.values())
    counted = replace(report.sources[name], dropped=dict(sorted(counts.items())))
    return replace(
        report,
        sources={**report.sources, name: counted},
        splits={**report.splits, split: labels},
    )
