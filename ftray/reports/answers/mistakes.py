"""The test rows that a page shows with their inputs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ftray.reports.record import RunRecord
from ftray.reports.samples import SHOWN, wrong_rows
from ftray.reports.samples import surprises as right_rows


@dataclass(frozen=True)
class RowCard:
    """A test row. values: its inputs by column, as text or as the URL of a picture; note: how sure
    the model was, or how far it was off."""

    row: int
    values: list[tuple[str, str]]
    judged: bool
    right: bool
    truth: Any
    predicted: Any
    note: str


def mistakes(run: RunRecord) -> list[RowCard]:
    """Return the worst answers, the worst first."""
    return [] if run.rows is None else list(cards(run, wrong_rows(run.rows)[:SHOWN]))


def surprises(run: RunRecord) -> list[RowCard]:
    """Return the right answers to which the model gave the least probability."""
    return [] if run.rows is None else list(cards(run, right_rows(run.rows)))


def cards(
    run: RunRecord, places: Iterable[Any], kept: Sequence[RunRecord] = ()
) -> Iterable[RowCard]:
    """Yield the rows at these indices of the test rows, as far as the run kept their inputs, or
    one of the runs `kept`, which have the same rows."""
    rows, hidden = run.rows, set(run.task.answers)
    assert rows is not None
    inputs = [each.samples.rows for each in (run, *kept)]
    for place in map(int, places):
        number = int(rows.rows[place])
        values = next((of[number] for of in inputs if number in of), {})
        # Where answers are not judged, the card shows the row's own.
        shown = [(n, v) for n, v in values.items() if not rows.are_judged or n not in hidden]
        yield RowCard(
            number,
            shown,
            rows.are_judged,
            rows.errors[place] == 0,
            rows.truth[place],
            rows.predicted[place],
            _note(float(rows.scores[place]), float(rows.errors[place]), float(rows.losses[place])),
        )


def _note(score: float, error: float, loss: float) -> str:
    if not math.isnan(score):
        return f"{score:.0%} sure"
    if not math.isnan(error):
        return f"error {error:.3g}"
    return f"loss {loss:.3g}"
