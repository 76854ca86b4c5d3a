"""Samples of the tasks that read rows of a table."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np

from ftray.tasks.base import Row
from tests.helpers.task_samples.labels import BAD_LABELS
from tests.helpers.task_samples.retrieval import FILL_MASK
from tests.helpers.task_samples.sample import BERT, LONG, NAN, Sample

_CELLS = {"age": 41, "job": "nurse", "note": "a long story"}


def _cells(**cells: Any) -> str:
    return json.dumps(cells)


def _table_rows(answer: str, *values: Any) -> tuple[Row, ...]:
    """Clean rows of a table: a number, and a category and a text that may be missing."""
    cells: list[dict[str, Any]] = [
        {"age": 20 + place, "job": (None, "nurse", "cook")[place % 3], "note": None}
        for place in range(len(values))
    ]
    cells[-1]["note"] = LONG.strip()
    return tuple(
        {"record": _cells(**of), answer: value} for of, value in zip(cells, values, strict=True)
    )


def _table(answer: str, raw: Any, clean: Any, bad: list[tuple[Any, str]], *rows: Any) -> Sample:
    made = _table_rows(answer, *rows)

    def cleaned(cells: Any, expected: str) -> tuple[dict[str, Any], Row]:
        return {"record": cells, answer: raw}, {"record": expected, answer: clean}

    return Sample(
        base=BERT,
        clean=(
            cleaned(_CELLS, _cells(**_CELLS)),
            cleaned(_cells(**_CELLS), _cells(**_CELLS)),
            cleaned({"a": " x  y ", "b": NAN, "c": "N/A"}, _cells(a="x y", b=None, c=None)),
            cleaned({"a": True, "b": np.float64(0.5)}, _cells(a="true", b=0.5)),
            cleaned({"a": date(2024, 2, 29), "b": None}, _cells(a="2024-02-29", b=None)),
        ),
        bad=(
            *(({"record": _CELLS, answer: value}, kind) for value, kind in bad),
            ({"record": {}, answer: raw}, "empty_row"),
            ({"record": {"a": float("inf")}, answer: raw}, "unreadable_cell"),
            ({"record": {"a": [1, 2]}, answer: raw}, "unreadable_cell"),
            ({"record": "no JSON", answer: raw}, "record_not_an_object"),
            ({"record": 7, answer: raw}, "record_not_an_object"),
        ),
        questions=(({"record": _CELLS}, _CELLS),),
        blank=({},),
        duplicates=(
            {"record": _cells(a="X", b=1), answer: clean},
            {"record": _cells(b=1, a="x"), answer: clean},
        ),
        strangers=({"record": _cells(a=1), answer: clean}, {"record": _cells(a=2), answer: clean}),
        rows=made,
        unread=({"record": _cells(strange=1), answer: rows[0]}, "no_tokens"),
        unlearnable=tuple({**row, answer: rows[0]} for row in made[:2]),
        augmenting=({}, 0.5),
    )


TABULAR_CLASSIFICATION = _table(
    "label", 1.0, "1", list(BAD_LABELS), "bad", "good", "mixed", "good", "bad"
)
TABULAR_REGRESSION = _table(
    "score",
    "2.5",
    [2.5],
    [(None, "missing_score"), ("good", "score_not_a_number"), (True, "score_not_a_number")],
    *([1.0], [2.5], [4.0], [1.5], [5.0]),
)

TABULAR_FILL_MASK = replace(
    FILL_MASK,
    clean=(({"record": _CELLS}, {"record": _cells(**_CELLS)}),),
    bad=(({"record": {}}, "empty_row"),),
    questions=(({"record": _CELLS}, _CELLS),),
    blank=({},),
    duplicates=({"record": _cells(a="X", b=1)}, {"record": _cells(b=1, a="x")}),
    strangers=({"record": _cells(a=1)}, {"record": _cells(a=2)}),
    rows=tuple({"record": row["record"]} for row in _table_rows("label", *range(4))),
    unread=({"record": _cells(strange=1)}, "no_tokens"),
)
