"""The different answers of a source's rows, as far as labels go: a row keeps the number of its
own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ftray.data.cleaning.clean import Cleaned
from ftray.data.readers.batch import RawBatch
from ftray.data.readers.rows import Source
from ftray.tasks import Task
from ftray.tasks.base import Answer, Row

Strata = Callable[[Sequence[Answer]], list[str]]


class Answers:
    """Numbers the answers of rows. `numbers` in arguments: that of each of some rows, (rows,)."""

    def __init__(self, source: Source, task: Task) -> None:
        self._source, self._task = source, task
        self._number: dict[Any, int] = {}
        self._answers: list[Answer] = []
        self._spellings: list[Any] = []

    def add(self, batch: RawBatch, found: Cleaned, rows: Sequence[Row]) -> list[int]:
        """Return the number of the answer of each clean row. Labels that a source spells in other
        ways have other numbers."""
        task = self._task
        raw: list[Any] = [None] * len(rows)
        keys: list[Any]
        if task.info.has_labels:
            column = batch.column(self._source.columns[task.info.answers[0]])
            raw = [column[index] for index in found.kept]
            # By type, too: 1, 1.0 and True are equal keys.
            keys = list(zip(map(type, raw), raw, strict=True))
        else:
            keys = [(task.stratum(row), frozenset(task.labels_of(row))) for row in rows]
        for key, value, row in zip(keys, raw, rows, strict=True):
            if key not in self._number:
                self._number[key] = len(self._answers)
                self._answers.append(Answer(task.stratum(row), task.labels_of(row)))
                self._spellings.append(value)
        return [self._number[key] for key in keys]

    def ranks(self, numbers: np.ndarray, strata: Strata) -> tuple[np.ndarray, list[str]]:
        """Return the place of each row's stratum among the sorted strata, (rows,) int32, and these.
        strata: returns the stratum of each answer."""
        each = enumerate(zip(self._answers, self._counts(numbers), strict=True))
        there = {number: of._replace(rows=count) for number, (of, count) in each if count}
        own = strata(list(there.values()))
        names = sorted(set(own))
        rank = {name: place for place, name in enumerate(names)}
        ranks = np.zeros(len(self._answers), dtype=np.int32)
        ranks[list(there)] = [rank[name] for name in own]
        return ranks[numbers], names

    def labels(self, numbers: np.ndarray) -> set[str]:
        """Return the labels that rows have."""
        there = np.unique(numbers).tolist()
        return {label for number in there for label in self._answers[number].labels}

    def spelled(self, numbers: np.ndarray) -> Iterator[tuple[Any, int]]:
        """Yield each label of rows, as the source spells it, and how many rows have it."""
        for spelling, rows in zip(self._spellings, self._counts(numbers), strict=True):
            if rows:
                yield spelling, rows

    def unknown(self, known: set[str]) -> list[str | None]:
        """Return of each answer the first label that is not known; None where all are."""
        return [
            next((label for label in answer.labels if label not in known), None)
            for answer in self._answers
        ]

    def _counts(self, numbers: np.ndarray) -> list[int]:
        counts: list[int] = np.bincount(numbers, minlength=len(self._answers)).tolist()
        return counts


def own_strata(answers: Sequence[Answer]) -> list[str]:
    """Return the stratum that each answer has by itself."""
    return [answer.stratum for answer in answers]
