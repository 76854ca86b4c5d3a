"""Reads, cleans and splits the data that a spec names. Needs neither Ray nor torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ftray import digest
from ftray.data.cleaning import clean as cleaning
from ftray.data.cleaning.clean import CleanRow, Dropped, SourceRows
from ftray.data.cleaning.report import CleaningReport
from ftray.data.sources import rows_of, source_of
from ftray.data.split import by_group, by_time, moment, stratify
from ftray.errors import DataError, FtrayError
from ftray.spec.schema import Spec
from ftray.tasks import Task, get_task
from ftray.tasks.base import is_missing
from ftray.tasks.schema import Schema

HELD_OUT = ("validation", "test")
_NAMES_SHOWN = 8
_NOTES_SHOWN = 6


@dataclass(frozen=True)
class Dataset:
    """Clean rows in their splits."""

    splits: dict[str, pa.Table]
    """train, validation, test -> the task's columns, in the order of the source."""
    schema: Schema
    """What the task learns of the rows of train before the training."""
    report: CleaningReport
    digest: str
    """Digest of rows, splits and labels, but not of file names, formats or rows left out."""
    quarantine: tuple[Dropped, ...]
    places: dict[str, pa.Array]
    """Split -> the place of each of its rows, FILE:LINE."""


def read_dataset(spec: Spec) -> Dataset:
    """Read, clean and split the data that the spec names.

    Raises DataError when a source cannot be read, when rows are faulty and data.on_bad_row is
    fail, when train has fewer than two labels, and when a split would be empty.
    """
    task = get_task(spec.task)
    parts = _clean_parts(spec, task)
    schema = _schema(parts["train"], task)
    for name in HELD_OUT:
        if name in parts and schema.labels:
            cleaning.drop_unknown(parts[name], task, schema.labels)
    _admit(spec, parts)
    kept = _split(spec, parts, task)
    splits = {name: cleaning.table(rows, task.columns) for name, rows in kept.items()}
    counts = {name: cleaning.label_counts(rows, task) for name, rows in kept.items()}
    # Numbers are standardized by rows that are trained on, not by those that are held out.
    scale = task.fit(item.row for item in kept["train"]).scale
    schema = schema.model_copy(update={"scale": scale})
    notes = (*_findings(parts, task), *_unevaluated(schema.labels, kept, task))
    report = CleaningReport({name: part.count() for name, part in parts.items()}, counts, notes)
    quarantine = tuple(row for part in parts.values() for row in part.dropped)
    places = {name: cleaning.places(rows) for name, rows in kept.items()}
    return Dataset(splits, schema, report, content_digest(splits, schema), quarantine, places)


def content_digest(splits: dict[str, pa.Table], schema: Schema) -> str:
    """Return a digest of the values in the splits, of their order and of the schema."""
    rows = {name: table.num_rows for name, table in splits.items()}
    head = {"labels": list(schema.labels), "splits": rows}
    if schema.scale:
        head["scale"] = schema.scale.model_dump()
    return digest.of_chunks(_chunks(json.dumps(head, sort_keys=True), splits))


def _chunks(head: str, splits: dict[str, pa.Table]) -> Iterator[bytes]:
    yield head.encode()
    for name, rows in sorted(splits.items()):
        for column in rows.column_names:
            yield f"{name}/{column}".encode()
            yield from _content(rows[column].combine_chunks())


def _content(array: pa.Array) -> Iterator[bytes]:
    """Yield the lengths and the values of an array of texts, of bytes, or of lists of numbers."""
    if pa.types.is_list(array.type):
        yield pc.list_value_length(array).to_numpy().tobytes()
        yield array.flatten().to_numpy().tobytes()
        return
    _, offsets, data = array.buffers()
    ends = np.frombuffer(offsets, "<i8")[array.offset : array.offset + len(array) + 1]
    yield np.diff(ends).tobytes()
    yield memoryview(data)[ends[0] : ends[-1]].tobytes()


def _clean_parts(spec: Spec, task: Task) -> dict[str, SourceRows]:
    """Read the sources of the spec, without faulty rows, duplicates and leaked rows."""
    parts: dict[str, SourceRows] = {}
    for name in ("train", *HELD_OUT):
        url = getattr(spec.data, name)
        if isinstance(url, str):
            source = source_of(url, name, spec.data, spec.info)
            if name == "train" and spec.data.split.column:
                source = replace(source, beside=(spec.data.split.column,))
            parts[name] = cleaning.clean(name, source, rows_of(source), task)
    _admit(spec, parts)
    for part in parts.values():
        cleaning.drop_twins(part, task)
    # A row in several splits stays in one: test takes precedence over validation, and validation
    # over train.
    for name, other in (("validation", "test"), ("train", "validation"), ("train", "test")):
        if name in parts and other in parts:
            cleaning.drop_leaked(parts[name], parts[other])
    return parts


def _admit(spec: Spec, parts: dict[str, SourceRows]) -> None:
    """Raise DataError for faulty rows, unless they are to be skipped, and for empty sources."""
    if spec.data.on_bad_row == "fail":
        cleaning.refuse_faults(parts.values())
    for part in parts.values():
        cleaning.require_rows(part)


def _schema(train: SourceRows, task: Task) -> Schema:
    cleaning.require_rows(train)
    schema = task.fit(item.row for item in train.kept)
    if problem := task.unlearnable(schema):
        columns = {**train.source.columns, **train.source.flags}
        answer = next(name for name in task.info.answers if name in columns)
        raise train.source.error(
            f"all {len(train.kept):,} usable rows {problem}",
            f"name the column of answers in data.columns.{answer} (now "
            f"{columns[answer]}), or add rows of another {answer}",
        )
    return schema


def _split(spec: Spec, parts: dict[str, SourceRows], task: Task) -> dict[str, list[CleanRow]]:
    shares = {
        name: share for name in HELD_OUT if isinstance(share := getattr(spec.data, name), float)
    }
    pool = parts["train"].kept
    chosen = _chosen(spec, pool, shares, task)
    splits = {name: [pool[i] for i in rows] for name, rows in chosen.items()}
    splits.update({name: parts[name].kept for name in HELD_OUT if name in parts})
    for name, share in shares.items():
        if not splits[name]:
            raise _empty(f"data.{name}", share, len(pool), spec)
    if not splits["train"]:
        raise _empty("data.train", spec.data.train, len(pool), spec)
    return {name: splits[name] for name in ("train", *HELD_OUT)}


def _empty(key: str, value: Any, rows: int, spec: Spec) -> FtrayError:
    """Return the error about a split without rows."""
    kept = {
        "random": "each label keeps a row to train on",
        "group": f"rows with the same {spec.data.split.column} stay together",
        "time": f"rows with the same {spec.data.split.column} stay together",
    }[spec.data.split.by]
    problem = f"that share of {rows:,} usable rows leaves the split empty ({kept})"
    return DataError.of(key, value, problem, f"raise {key}, or give it a source of its own")


def _chosen(
    spec: Spec, pool: Sequence[CleanRow], shares: Mapping[str, float], task: Task
) -> dict[str, np.ndarray]:
    """Return the indices of the rows of each split that is a share, and of train."""
    policy = spec.data.split
    if policy.by == "random":
        return stratify(task.strata([item.row for item in pool]), shares, spec.seed)
    assert policy.column is not None, "the spec asks for a column"
    values = [item.raw.values.get(policy.column) for item in pool]
    if missing := sum(map(is_missing, values)):
        problem = f"{missing:,} of {len(pool):,} rows have no value in it"
        raise DataError.of("data.split.column", policy.column, problem, "name a full column")
    if policy.by == "group":
        return by_group([str(value) for value in values], shares, spec.seed)
    try:
        return by_time([moment(value) for value in values], shares)
    except ValueError as error:
        fix = "name a column of numbers, dates, or texts such as 2026-01-31T12:00"
        raise DataError.of("data.split.column", policy.column, str(error), fix) from None


def _findings(parts: dict[str, SourceRows], task: Task) -> Iterator[str]:
    """Yield notes about files and about the spelling of labels."""
    for name, part in parts.items():
        notes = part.source.notes
        yield from (f"{name}: {note}" for note in notes[:_NOTES_SHOWN])
        if len(notes) > _NOTES_SHOWN:
            yield f"{name}: {len(notes) - _NOTES_SHOWN:,} notes more of this kind"
        yield from (f"{name}: {note}" for note in cleaning.spelling_notes(part, task))


def _unevaluated(
    labels: Sequence[str], kept: Mapping[str, Sequence[CleanRow]], task: Task
) -> Iterator[str]:
    """Yield notes about labels that have no row in a held-out split."""
    for name in HELD_OUT if labels else ():
        present = {label for item in kept[name] for label in task.labels_of(item.row)}
        absent = [label for label in labels if label not in present]
        if absent:
            shown = ", ".join(absent[:_NAMES_SHOWN]) + (", ..." if absent[_NAMES_SHOWN:] else "")
            yield f"{len(absent)} of {len(labels)} labels have no row in {name}: {shown}"
