"""Handles rows that the model's tokenizer makes no token of: bad rows that only encoding finds."""

from __future__ import annotations

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


def without_tokenless(dataset: Dataset, found: Mapping[str, Sequence[int]], spec: Spec) -> Dataset:
    """Return `dataset` with the rows `found` (split -> indices in it) added to its report and its
    quarantine. Raises DataError where bad rows are not to be skipped, or a split has no other
    row."""
    report, problems = dataset.report, []
    dropped: list[Dropped] = []
    for split, places in found.items():
        if not places:
            continue
        name = split if split in report.sources else "train"
        rows = tokenless_rows(name, dataset.splits[split], dataset.places[split], places)
        source = source_of(getattr(spec.data, name), name, spec.data, spec.info)
        if spec.data.on_bad_row == "fail":
            problems.append(cleaning.problem(source, rows, report.sources[name].read))
        elif len(places) == dataset.splits[split].num_rows:
            raise none_left(source, len(places))
        dropped += rows
        report = _counted(report, split, name, rows, spec)
    if problems:
        raise DataError(*problems)
    return replace(dataset, report=report, quarantine=(*dataset.quarantine, *dropped))


def tokenless_rows(
    name: str, table: pa.Table, where: pa.Array, places: Sequence[int]
) -> list[Dropped]:
    """Return the clean rows at `places` of `table` as rows that are left out."""
    rows = table.take(pa.array(places, pa.int64())).to_pylist()
    return [
        Dropped(name, where[place].as_py(), NO_TOKENS, "", row)
        for place, row in zip(places, rows, strict=True)
    ]


def none_left(source: Source, rows: int) -> Exception:
    """Return the error about a source, or a split of it, of which no row gives a token."""
    return source.error(
        f"the model's tokenizer makes no token of any of its {rows:,} usable rows",
        "name a model for texts like these",
    )


def _counted(
    report: CleaningReport, split: str, name: str, rows: Sequence[Dropped], spec: Spec
) -> CleaningReport:
    """Return `report` with `rows` of a split counted as left out of the source `name`."""
    task = get_task(spec.task)
    source, labels = report.sources[name], dict(report.splits[split])
    for row in rows:
        labels[task.target(dict(row.values))] -= 1
    count = source.dropped.get(NO_TOKENS, 0) + len(rows)
    counted = replace(source, dropped=dict(sorted({**source.dropped, NO_TOKENS: count}.items())))
    return replace(
        report,
        sources={**report.sources, name: counted},
        splits={**report.splits, split: labels},
    )
