"""Reads CoNLL files: a token a line with its columns, and a blank line between sentences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from ftray.data.readers import stream
from ftray.data.readers.batch import BATCH_ROWS, RawBatch, batched
from ftray.data.readers.rows import Source, shown
from ftray.spec.sections.delimited import DelimitedSpec
from ftray.store.files.location import Location
from ftray.tasks.base import BadRow

_DOCUMENT = "-DOCSTART-"
"""First field of a line that stands between documents."""
_UNIVERSAL = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
"""The columns of CoNLL-U (Nivre et al. 2016)."""
_Line = tuple[int, list[str]]
"""Number of a line, and its fields."""


def read_conll(file: Location, source: Source) -> Iterator[RawBatch]:
    """Yield a row for each sentence, with a list of texts for each column.

    The columns have the names of `data.csv.header`; else the first is called tokens, the last one
    tags, and those between have their number, from 2 on. Raises DataError for an empty file, and
    where a column is missing.
    """
    sentences = _sentences(stream.lines(file, source), source.csv)
    return _rows(sentences, source.csv.header, file, source)


def read_conllu(file: Location, source: Source) -> Iterator[RawBatch]:
    """Yield the sentences of a CoNLL-U file as `read_conll` does: the columns have the names of the
    format. Comments, and lines that are no word of the sentence (1-2, 1.1), are left out."""
    lines = (line if not line.startswith("#") else "" for line in stream.lines(file, source))
    spec = source.csv.model_copy(update={"separator": "\t"})
    words = (
        [(number, fields) for number, fields in sentence if fields[0].isdecimal()]
        for sentence in _sentences(lines, spec)
    )
    return _rows(filter(None, words), source.csv.header or _UNIVERSAL, file, source)


def _sentences(lines: Iterable[str], spec: DelimitedSpec) -> Iterator[list[_Line]]:
    separator = None if spec.separator == "auto" else spec.separator
    sentence: list[_Line] = []
    for number, line in enumerate(lines, 1):
        bare = line.rstrip("\r\n")
        if not bare.strip() or bare.startswith(_DOCUMENT):
            if sentence:
                yield sentence
            sentence = []
        else:
            mark = separator or ("\t" if "\t" in bare else None)
            sentence.append((number, bare.split(mark)))
    if sentence:
        yield sentence


def _rows(
    sentences: Iterator[list[_Line]],
    header: tuple[str, ...] | None,
    file: Location,
    source: Source,
) -> Iterator[RawBatch]:
    name, first = shown(file), next(sentences, None)
    if first is None:
        raise source.error(f"{name} is empty", "name a file with sentences")
    names = header or _named(len(first[0][1]))
    source.columns_in(names, name)
    for some in batched(chain([first], sentences), BATCH_ROWS, _size):
        rows, faults = [], {}
        for index, sentence in enumerate(some):
            wrong = next((line for line in sentence if len(line[1]) != len(names)), None)
            if wrong is None:
                columns = zip(*(fields for _, fields in sentence), strict=True)
                rows.append(dict(zip(names, map(list, columns), strict=True)))
            else:
                number, fields = wrong
                detail = f"line {number} has {len(fields)} fields instead of {len(names)}"
                rows.append({"fields": fields})
                faults[index] = BadRow("ragged", detail)
        yield RawBatch(rows, name, [sentence[0][0] for sentence in some], faults)


def _size(sentence: list[_Line]) -> int:
    return sum(len(field) for _, fields in sentence for field in fields)


def _named(width: int) -> tuple[str, ...]:
    """Return names of the columns of a file that has none."""
    between = [str(number) for number in range(2, width)]
    return ("tokens", *between, *(["tags"] if width > 1 else []))
