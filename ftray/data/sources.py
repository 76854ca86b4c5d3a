"""From what data.train and its like name to rows: files, globs, folders, URLs and the Hub."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Literal

import pyarrow as pa

from ftray.data import cleaning
from ftray.data.report import CleaningReport
from ftray.data.rows import RawRow, Source
from ftray.spec.schema import DataSpec
from ftray.tasks.base import Task

_READS_AT_ONCE = 16


def read_rows(source: str, role: str, spec: DataSpec) -> Iterator[RawRow]:
    """The rows of `source` as found, in a fixed order; `role` is train, validation or test.

    Raises DataError when the source is not there, is of no known format, or lacks a column.
    """
    return rows_of(source_of(source, role, spec))


def read_source(
    source: str,
    columns: Mapping[str, str],
    task: Task,
    encoding: str = "utf-8",
    on_bad_row: Literal["fail", "skip"] = "fail",
    labels: Collection[str] | None = None,
    need_label: bool = True,
    key: str = "--data",
) -> tuple[pa.Table, CleaningReport, tuple[cleaning.Dropped, ...]]:
    """The clean rows of one source that is not split: the task's columns and `where` (FILE:LINE).

    With `labels`, a row with any other label is a fault. Without `need_label` (for prediction) the
    label column may be missing and is not returned, and twins stay: every row gets an answer.
    `key` is what errors name. Raises DataError as `read_dataset` does.
    """
    wanted = task.columns if need_label else tuple(c for c in task.columns if c != "label")
    named = {logical: columns[logical] for logical in wanted}
    part = cleaning.clean(Source(key, source, named, encoding, split="test"), "data", task, rows_of)
