"""Reads CSV and TSV files; detects the parts of their dialect that the spec leaves open."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import chain

from ftray.data.readers import stream
from ftray.data.readers.batch import BATCH_ROWS, Columns, RawBatch, batched
from ftray.data.readers.dialect import ESCAPE, QUOTE, Dialect
from ftray.data.readers.records import Evidence, Records
from ftray.data.readers.rows import Source, shown
from ftray.spec.sections.delimited import DelimitedSpec
from ftray.store.files.location import Location
from ftray.tasks.base import BadRow

_SAMPLE = 2**20
"""Characters at the beginning of a file from which its dialect is detected."""
_FEW = 20
"""Number of lines from which the separator is detected."""
_SEPARATORS = (",", "\t", ";", "|")
_EXCEL = re.compile(r"sep=(.)[\r\n]*")
"""Matches the line with the separator that Excel may write above the header."""


def read_delimited(file: Location, source: Source) -> Iterator[RawBatch]:
    """Yield the rows of a CSV or TSV file. Adds notes to the source about the dialect that was
    detected, and about lines whose quotation marks are doubtful."""
    name, spec = shown(file), source.csv
    lines = stream.lines(file, source)
    sample = list(_sample(lines))
    if announced := _EXCEL.fullmatch(sample[0]) if sample else None:
        # Put a blank line in its place, so that the other lines keep their numbers.
        sample[0] = "\n"
        if spec.separator == "auto":
            spec = spec.model_copy(update={"separator": announced[1]})
    if not any(line.strip() for line in sample):
        raise source.error(f"{name} is empty", "name a file with rows")
    default = "\t" if ".tsv" in file.name.lower() else ","
    dialect, evidence, first = find_dialect(spec, default, sample, set(source.named.values()))
    header = list(spec.header) if spec.header else [column.strip() for column in first]
    for note in _found(spec, default, dialect):
        source.note(f"{name}: {note}")
    source.columns_in(header, name)
    records = Records(chain(sample, lines), dialect, len(header), evidence)
    rows = iter(records)
    if not spec.header:
        next(rows)
    for some in batched(rows, BATCH_ROWS, lambda record: sum(map(len, record[1]))):
        yield _batch(name, header, [line for line, _ in some], [fields for _, fields in some])
    for note in _doubts(records):
        source.note(f"{name}: {note}")


def _batch(name: str, header: list[str], lines: list[int], rows: list[list[str]]) -> RawBatch:
    faults = {
        index: BadRow("ragged", f"{len(fields)} fields instead of {len(header)}")
        for index, fields in enumerate(rows)
        if len(fields) != len(header)
    }
    if not faults:
        columns = dict(zip(header, zip(*rows, strict=True), strict=True))
        return RawBatch(Columns(columns, len(rows)), name, lines)
    each = enumerate(rows)
    values = [{"fields": f} if i in faults else dict(zip(header, f, strict=True)) for i, f in each]
    return RawBatch(values, name, lines, faults)


def find_dialect(
    spec: DelimitedSpec, default: str, sample: Sequence[str], needed: Collection[str]
) -> tuple[Dialect, Evidence, list[str]]:
    """Detect the dialect of a file that begins with the lines `sample`, as far as the spec leaves
    it open. Returns the dialect, the evidence about quotation marks, and the first record.

    needed: columns that the header should name
    """
    quote = {"auto": QUOTE, "off": ""}.get(spec.quote, spec.quote)
    escape = {"auto": "", "off": ""}.get(spec.escape, spec.escape)
    dialect = Dialect(spec.separator, quote, escape)
    if spec.separator == "auto":
        dialect = replace(dialect, separator=default)
        bare = [text for line in sample if (text := line.rstrip("\r\n"))]
        dialect = _separated(dialect, bare, needed if spec.header is None else ())
    columns = len(spec.header) if spec.header else None
    first, trial = _tried(sample, dialect, columns)
    if spec.escape == "auto" and quote and any(ESCAPE + quote in line for line in sample):
        escaped = replace(dialect, escape=ESCAPE)
        first_, trial_ = _tried(sample, escaped, columns)
        if trial_.ragged + trial_.seen.stray < trial.ragged + trial.seen.stray:
            dialect, first, trial = escaped, first_, trial_
    if spec.quote == "auto" and trial.seen.are_characters:
        dialect = replace(dialect, quote="")
    return dialect, trial.seen, first


def _tried(
    sample: Sequence[str], dialect: Dialect, columns: int | None
) -> tuple[list[str], Records]:
    """Read all records of the sample; return the first record, and the `Records` with its
    counts."""
    trial = Records(iter(sample), dialect, columns)
    (_, first), *_ = trial
    return first, trial


def _separated(dialect: Dialect, sample: Sequence[str], needed: Collection[str]) -> Dialect:
    others = [replace(dialect, separator=mark) for mark in _SEPARATORS]
    candidates = [dialect, *(other for other in others if other != dialect)]
    if needed:
        for candidate in candidates:
            fields, _ = candidate.fields(sample[0])
            if set(needed) <= {field.text.strip() for field in fields}:
                return candidate
    counts = [
        [len(candidate.fields(line)[0]) for line in sample[:_FEW]] for candidate in candidates
    ]
    if counts[0][0] > 1:
        return dialect
    # The header names none of the columns: take the separator that cuts all lines into the same
    # number of fields.
    alike = [
        candidate
        for candidate, of in zip(candidates, counts, strict=True)
        if of[0] > 1 and len(set(of)) == 1
    ]
    return alike[0] if len(alike) == 1 else dialect


def _sample(lines: Iterator[str]) -> Iterator[str]:
    size = 0
    while size < _SAMPLE and (line := next(lines, None)) is not None:
        size += len(line)
        yield line


def _found(spec: DelimitedSpec, default: str, dialect: Dialect) -> Iterator[str]:
    """Yield notes about a dialect that differs from the one that the file's suffix implies."""
    if spec.separator == "auto" and dialect.separator != default:
        yield f"fields are separated by {dialect.separator!r}"
    if spec.escape == "auto" and dialect.escape:
        yield f"quotation marks are escaped by {dialect.escape}"
    if spec.quote == "auto" and not dialect.quote:
        yield "quotation marks are read as characters: they enclose no fields"


def _doubts(records: Records) -> Iterator[str]:
    if count := records.spans.count:
        yield f"{count:,} record{'s'[: count != 1]} over several lines each ({records.spans})"
    if count := records.characters.count:
        yield (
            f"{count:,} quotation mark{'s'[: count != 1]} that open{'s'[: count == 1]} a field "
            f"and close{'s'[: count == 1]} none read as characters ({records.characters})"
        )
