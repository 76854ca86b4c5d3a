"""Reads, cleans and splits the data that a spec names. Needs neither Ray nor torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ftray import digest
from ftray.data.cleaning import clean as cleaning
from ftray.data.cleaning.clean import CleanRow, Dropped, SourceRows
from ftray.data.cleaning.report import CleaningReport
from ftray.data.sources import rows_of, source_of
from ftray.data.split import stratify
from ftray.errors import DataError
from ftray.spec.schema import Spec
from ftray.tasks import get_task
from ftray.tasks.base import Task

HELD_OUT = ("validation", "test")
_NAMES_SHOWN = 8
_NOTES_SHOWN = 6


@dataclass(frozen=True)
class Dataset:
    """Clean rows in their splits."""

    splits: dict[str, pa.Table]
    """train, validation, test -> the task's columns (strings), in the order of the source."""
    labels: tuple[str, ...]
    """The labels of train, sorted: the position of a label is its index. Empty for a task without
    labels."""
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
    labels = _labels(parts["train"], task)
    for name in HELD_OUT:
        if name in parts and task.info.has_labels:
            cleaning.drop_unknown(parts[name], task, labels)
    _admit(spec, parts)
    kept = _split(spec, parts, task)
    splits = {name: cleaning.table(rows, task.columns) for name, rows in kept.items()}
    counts = {name: cleaning.label_counts(rows, task) for name, rows in kept.items()}
    notes = (*_findings(parts, task), *_unevaluated(labels, counts))
    report = CleaningReport({name: part.count() for name, part in parts.items()}, counts, notes)
    quarantine = tuple(row for part in parts.values() for row in part.dropped)
    places = {name: cleaning.places(rows) for name, rows in kept.items()}
    return Dataset(splits, labels, report, content_digest(splits, labels), quarantine, places)


def content_digest(splits: dict[str, pa.Table], labels: Sequence[str]) -> str:
    """Return a digest of the strings in the splits, of their order and of the labels."""
    head = {"labels": list(labels), "splits": {name: t.num_rows for name, t in splits.items()}}
    return digest.of_chunks(_chunks(json.dumps(head, sort_keys=True), splits))


def _chunks(head: str, splits: dict[str, pa.Table]) -> Iterator[bytes]:
    yield head.encode()
    for name, rows in sorted(splits.items()):
        for column in rows.column_names:
            array = rows[column].combine_chunks()
            _, offsets, data = array.buffers()
            ends = np.frombuffer(offsets, "<i8")[array.offset : array.offset + len(array) + 1]
            yield f"{name}/{column}".encode()
            yield np.diff(ends).tobytes()
            yield memoryview(data)[ends[0] : ends[-1]].tobytes()


def _clean_parts(spec: Spec, task: Task) -> dict[str, SourceRows]:
    """Read the sources of the spec, without faulty rows, duplicates and leaked rows."""
    parts: dict[str, SourceRows] = {}
    for name in ("train", *HELD_OUT):
        url = getattr(spec.data, name)
        if isinstance(url, str):
            source = source_of(url, name, spec.data, spec.info)
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


def _labels(train: SourceRows, task: Task) -> tuple[str, ...]:
    cleaning.require_rows(train)
    if not task.info.has_labels:
        return ()
    labels = tuple(cleaning.label_counts(train.kept, task))
    if len(labels) < 2:
        column = train.source.columns["label"]
        raise train.source.error(
            f"all {len(train.kept):,} usable rows have one label, {labels[0]!r}; "
            "there is nothing to tell apart",
            f"name the column of labels in data.columns.label (now {column}), or add rows of "
            "another label",
        )
    return labels


def _split(spec: Spec, parts: dict[str, SourceRows], task: Task) -> dict[str, list[CleanRow]]:
    shares = {
        name: share for name in HELD_OUT if isinstance(share := getattr(spec.data, name), float)
    }
    pool = parts["train"].kept
    chosen = stratify([task.target(item.row) for item in pool], shares, spec.seed)
    splits = {name: [pool[i] for i in rows] for name, rows in chosen.items()}
    splits.update({name: parts[name].kept for name in HELD_OUT if name in parts})
    for name, share in shares.items():
        if not splits[name]:
            raise DataError.of(
                f"data.{name}",
                share,
                f"that share of {len(pool):,} usable rows leaves the split empty (each label keeps "
                "a row to train on)",
                f"raise data.{name}, or give it a source of its own",
            )
    return {name: splits[name] for name in ("train", *HELD_OUT)}


def _findings(parts: dict[str, SourceRows], task: Task) -> Iterator[str]:
    """Yield notes about files and about the spelling of labels."""
    for name, part in parts.items():
        notes = part.source.notes
        yield from (f"{name}: {note}" for note in notes[:_NOTES_SHOWN])
        if len(notes) > _NOTES_SHOWN:
            yield f"{name}: {len(notes) - _NOTES_SHOWN:,} notes more of this kind"
        yield from (f"{name}: {note}" for note in cleaning.spelling_notes(part, task))


def _unevaluated(labels: Sequence[str], counts: dict[str, dict[str, int]]) -> Iterator[str]:
    """Yield notes about labels that have no row in a held-out split."""
    for name in HELD_OUT:
        absent = [label for label in labels if label not in counts[name]]
        if absent:
            shown = ", ".join(absent[:_NAMES_SHOWN]) + (", ..." if absent[_NAMES_SHOWN:] else "")
            yield f"{len(absent)} of {len(labels)} labels have no row in {name}: {shown}"
