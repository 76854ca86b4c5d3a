"""Handles rows that the model's processor makes nothing of: bad rows that only encoding finds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pyarrow as pa

from ftray.data.cleaning import clean as cleaning
from ftray.data.cleaning.clean import Dropped
from ftray.data.cleaning.report import NO_TOKENS, CleaningReport
from ftray.data.dataset import Dataset
from ftray.data.readers.rows import Source
from ftray.data.sources import source_of
from ftray.errors import DataError
from ftray.spec.schema import Spec
from ftray.tasks import get_task


def without_rejected(
    dataset: Dataset, found: Mapping[str, Mapping[int, str]], spec: Spec
) -> Dataset:
    """Return `dataset` with the rows `found` (split -> index in it -> kind of fault) added to its
    report and its quarantine. Raises DataError where bad rows are not to be skipped, or a split has
    no other row."""
    report, problems = dataset.report, []
    dropped: list[Dropped] = []
    for split, places in found.items():
        if not places:
            continue
        name = split if split in report.sources else "train"
        rows = rejected_rows(name, dataset.splits[split], dataset.places[split], places)
        source = source_of(getattr(spec.data, name), name, spec.data, spec.info)
        if spec.data.on_bad_row == "fail":
            problems.append(cleaning.problem(source, rows, report.sources[name].read))
        elif len(places) == dataset.splits[split].num_rows:
            raise none_left(source, rows)
        dropped += rows
        report = _counted(report, split, name, rows, spec)
    if problems:
        raise DataError(*problems)
    return replace(dataset, report=report, quarantine=(*dataset.quarantine, *dropped))


def rejected_rows(
    name: str, table: pa.Table, where: pa.Array, found: Mapping[int, str]
) -> list[Dropped]:
    """Return the clean rows of `table` at the indices in `found` as rows that are left out."""
    rows = table.take(pa.array(list(found), pa.int64())).to_pylist()
    return [
        Dropped(name, where[place].as_py(), kind, "", row)
        for (place, kind), row in zip(found.items(), rows, strict=True)
    ]


def none_left(source: Source, rows: Sequence[Dropped]) -> Exception:
    """Return the error about a source, or a split of it, of which no row gives an example."""
    if all(row.kind == NO_TOKENS for row in rows):
        problem = f"the model's tokenizer makes no token of any of its {len(rows):,} usable rows"
        return source.error(problem, "name a model for texts like these")
    (first,) = {rows[0].kind}
    problem = f"none of its {len(rows):,} usable rows can be read ({first.replace('_', ' ')})"
    return source.error(problem, "name a source with good rows")


def _counted(
    report: CleaningReport, split: str, name: str, rows: Sequence[Dropped], spec: Spec
) -> CleaningReport:
    """Return `report` with `rows` of a split counted as left out of the source `name`."""
    task = get_task(spec.task)
    source, labels = report.sources[name], dict(report.splits[split])
    for row in rows:
        labels[task.stratum(dict(row.values))] -= 1
    counts = Counter(source.dropped) + Counter(row.kind for row in rows)
    counted = replace(source, dropped=dict(sorted(counts.items())))
    return replace(
        report,
        sources={**report.sources, name: counted},
        splits={**report.splits, split: labels},
    )
