"""Reads, cleans and splits the data that a spec names. Needs neither Ray nor torch.

The way of the rows:

1. Every source is read once, in batches (`SourceRows`). Rows are cleaned; of each row stay a digest
   of its key, a digest of its values, and its label.
2. Duplicates, leaks and unknown labels are found among digests and labels. The task is fitted to
   the labels or numbers of the rows that stay, and each split gets the numbers of its rows.
3. Whoever needs values reads the source again, in batches: `Dataset.blocks` for encoding,
   `SplitRows` for a sample or for a small split, `Dataset.dropped` for the rows left out.

So memory holds a batch and some 40 bytes a row, whatever the rows are. The result depends neither
on the size of batches nor on the format of files.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel

from ftray import digest
from ftray.data.cleaning.faults import Dropped, refuse_faults
from ftray.data.cleaning.report import CleaningReport
from ftray.data.cleaning.source_rows import SourceRows
from ftray.data.cleaning.spellings import spelling_notes
from ftray.data.readers.rows import Source
from ftray.data.sources import source_of
from ftray.data.split import by_group, by_part, by_time, stratify
from ftray.data.split_column import SplitColumn
from ftray.data.split_rows import Block, SplitRows, blocks
from ftray.errors import DataError, FtrayError
from ftray.spec.schema import Spec
from ftray.spec.sections.delimited import DelimitedSpec
from ftray.tasks import Task, get_task
from ftray.tasks.schema import Schema

HELD_OUT = ("validation", "test")
_NAMES_SHOWN = 8
_NOTES_SHOWN = 6


@dataclass(frozen=True)
class Dataset:
    """Clean rows in their splits, which are read when they are needed."""

    splits: dict[str, SplitRows]
    """train, validation, test -> its rows, in the order of the source."""
    schema: Schema
    """What the task learns of the rows of train before the training."""
    report: CleaningReport
    digest: str
    """Digest of rows, splits and labels, but not of file names, formats or rows left out."""
    sources: Mapping[str, SourceRows]
    """train, and validation and test where they have a source of their own."""
    rejected: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    """Split -> rows of it that encoding makes nothing of, as indices -> kind of the fault."""

    def blocks(self, rows: int) -> Iterator[Block]:
        """Yield the rows of all splits in blocks of `rows` rows; the last of a split may be
        short. Reads each source once."""
        for source in self.sources.values():
            own = {name: of for name, of in self.splits.items() if of.source is source}
            yield from blocks(own, rows)

    def dropped(self) -> Iterator[Dropped]:
        """Yield the rows left out, those of each source in its order. Reads again the sources that
        have such rows."""
        for source in self.sources.values():
            more: dict[int, str] = {}
            for split, found in self.rejected.items():
                if self.splits[split].source is source:
                    more |= {int(self.splits[split].numbers[at]): of for at, of in found.items()}
            yield from source.dropped(more)


def read_dataset(spec: Spec) -> Dataset:
    """Read, clean and split the data that the spec names.

    Raises DataError when a source cannot be read, when rows are faulty and data.on_bad_row is
    fail, when train has fewer than two labels, and when a split would be empty.
    """
    task = get_task(spec.task)
    parts = _clean_parts(spec, task)
    schema = _schema(parts["train"], task, spec.options)
    for name in HELD_OUT:
        if name in parts and schema.labels:
            parts[name].drop_unknown(schema.labels)
    _admit(spec, parts)
    splits = _split(spec, parts)
    if schema.scale is not None or schema.columns or schema.items:
        # What is fitted to values is fitted to rows that are trained on, not to held-out ones.
        found = task.fit(parts["train"].to_fit(splits["train"].numbers), spec.options)
        fitted = {name: getattr(found, name) for name in ("scale", "columns", "items")}
        schema = schema.model_copy(update=fitted)
    counts = {name: rows.label_counts() for name, rows in splits.items()}
    notes = (*_findings(parts, task), *_unevaluated(schema.labels, splits))
    report = CleaningReport({name: part.count() for name, part in parts.items()}, counts, notes)
    digests = {name: rows.digests for name, rows in splits.items()}
    columns = splits["train"].columns
    return Dataset(splits, schema, report, content_digest(digests, columns, schema), parts)


def read_source(
    source: str,
    columns: Mapping[str, str],
    task: Task,
    encoding: str = "utf-8",
    on_bad_row: Literal["fail", "skip"] = "fail",
    labels: Collection[str] | None = None,
    key: str = "--data",
    csv: DelimitedSpec | None = None,
    flags: Mapping[str, tuple[str, ...]] | None = None,
) -> tuple[SplitRows, CleaningReport]:
    """Return the clean rows of one source that is not split, and the report.

    With `labels`, a row with any other label is faulty. `key` is the setting that errors name.
    Raises DataError as `read_dataset` does.
    """
    asked = Source(
        key,
        source,
        columns,
        encoding,
        "test",
        files=task.info.files,
        flags=flags or {},
        csv=csv or DelimitedSpec(),
        sequences=task.info.sequences,
        shares={},
    )
    part = SourceRows("data", asked, task)
    part.drop_twins()
    if labels is not None:
        part.drop_unknown(labels)
    if on_bad_row == "fail":
        refuse_faults([part.problem()])
    part.require_rows()
    rows = SplitRows(part, part.kept)
    report = CleaningReport({part.name: part.count()}, {part.name: rows.label_counts()})
    return rows, report


def content_digest(
    digests: Mapping[str, np.ndarray], columns: Sequence[str], schema: Schema
) -> str:
    """Return a digest of the values in the splits, of their order and of the schema. digests: split
    -> digest of each row."""
    head = {
        "labels": list(schema.labels),
        "splits": {name: len(of) for name, of in digests.items()},
        "columns": sorted(columns),
        "scale": schema.scale and schema.scale.model_dump(),
    }
    each = (of.astype("<u8").tobytes() for _, of in sorted(digests.items()))
    return digest.of_chunks([json.dumps(head, sort_keys=True).encode(), *each])


def _clean_parts(spec: Spec, task: Task) -> dict[str, SourceRows]:
    """Read the sources of the spec, without faulty rows, duplicates and leaked rows."""
    parts: dict[str, SourceRows] = {}
    for name in ("train", *HELD_OUT):
        url = getattr(spec.data, name)
        if isinstance(url, str):
            source, policy = source_of(url, name, spec.data, spec.info, spec.seed), None
            if name == "train" and spec.data.split.by != "random":
                column = spec.data.split.column
                beside = {} if column is None else {column: "data.split.column"}
                source, policy = replace(source, beside=beside), SplitColumn(spec.data.split)
            parts[name] = SourceRows(name, source, task, policy)
    _admit(spec, parts)
    for part in parts.values():
        part.drop_twins()
    # A row in several splits stays in one: test takes precedence over validation, and validation
    # over train.
    for name, other in (("validation", "test"), ("train", "validation"), ("train", "test")):
        if name in parts and other in parts:
            parts[name].drop_leaked(parts[other])
    for part in parts.values():
        part.forget_keys()
    return parts


def _admit(spec: Spec, parts: dict[str, SourceRows]) -> None:
    """Raise DataError for faulty rows, unless they are to be skipped, and for empty sources."""
    if spec.data.on_bad_row == "fail":
        refuse_faults([part.problem() for part in parts.values()])
    for part in parts.values():
        part.require_rows()


def _schema(train: SourceRows, task: Task, options: BaseModel) -> Schema:
    train.require_rows()
    kept = train.kept
    schema = task.fit(train.to_fit(kept), options)
    if problem := task.unlearnable(schema):
        columns = {**train.source.columns, **train.source.flags}
        answer = next(name for name in task.info.answers if name in columns)
        raise train.source.error(
            f"all {len(kept):,} usable rows {problem}",
            f"name the column of answers in data.columns.{answer} (now "
            f"{columns[answer]}), or add rows of another {answer}",
        )
    return schema


def _split(spec: Spec, parts: dict[str, SourceRows]) -> dict[str, SplitRows]:
    shares = {
        name: share for name in HELD_OUT if isinstance(share := getattr(spec.data, name), float)
    }
    pool = parts["train"].kept
    chosen = _chosen(spec, parts["train"], pool, shares)
    splits = {name: SplitRows(parts["train"], pool[rows]) for name, rows in chosen.items()}
    splits |= {name: SplitRows(parts[name], parts[name].kept) for name in HELD_OUT if name in parts}
    for name, share in shares.items():
        if not splits[name].num_rows:
            raise _empty(f"data.{name}", share, len(pool), spec)
    if not splits["train"].num_rows:
        raise _empty("data.train", spec.data.train, len(pool), spec)
    return {name: splits[name] for name in ("train", *HELD_OUT)}


def _empty(key: str, value: Any, rows: int, spec: Spec) -> FtrayError:
    """Return the error about a split without rows."""
    kept = {
        "random": "each label keeps a row to train on",
        "group": f"rows with the same {spec.data.split.column} stay together",
        "time": f"rows with the same {spec.data.split.column} stay together",
        "last": "sequences of one or two items are all train's, and of three that have both held "
        "out, nothing is",
    }[spec.data.split.by]
    problem = f"that share of {rows:,} usable rows leaves the split empty ({kept})"
    return DataError.of(key, value, problem, f"raise {key}, or give it a source of its own")


def _chosen(
    spec: Spec, train: SourceRows, pool: np.ndarray, shares: Mapping[str, float]
) -> dict[str, np.ndarray]:
    """Return the indices in `pool` of the rows of each split that is a share, and of train."""
    if train.column is None:
        return stratify(train.strata(pool), shares, spec.seed)
    values = train.column.of(pool)
    if spec.data.split.by == "group":
        return by_group(values, shares, spec.seed)
    if spec.data.split.by == "last":
        return by_part(values, shares)
    return by_time(values, shares)


def _findings(parts: dict[str, SourceRows], task: Task) -> Iterator[str]:
    """Yield notes about files and about the spelling of labels."""
    for name, part in parts.items():
        notes = part.source.notes
        yield from (f"{name}: {note}" for note in notes[:_NOTES_SHOWN])
        if len(notes) > _NOTES_SHOWN:
            yield f"{name}: {len(notes) - _NOTES_SHOWN:,} notes more of this kind"
        if task.info.has_labels:
            spelled = spelling_notes(part.spelled(), part.label_counts(part.kept))
            yield from (f"{name}: {note}" for note in spelled)


def _unevaluated(labels: Sequence[str], splits: Mapping[str, SplitRows]) -> Iterator[str]:
    """Yield notes about labels that have rows, and none of them in a held-out split."""
    present = {name: split.labels() for name, split in splits.items()} if labels else {}
    labels = [label for label in labels if any(label in found for found in present.values())]
    for name in HELD_OUT if labels else ():
        absent = [label for label in labels if label not in present[name]]
        if absent:
            shown = ", ".join(absent[:_NAMES_SHOWN]) + (", ..." if absent[_NAMES_SHOWN:] else "")
            yield f"{len(absent)} of {len(labels)} labels have no row in {name}: {shown}"
