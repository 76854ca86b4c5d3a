"""Compares the answers of two models to the same test rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ftray.models.artifact.worth import Estimate
from ftray.models.inference.significance import signs_of
from ftray.reports.answers.plots import answers_of_runs
from ftray.reports.record import RunRecord
from ftray.reports.test_rows import TestRows

_TAILS = (2.5, 97.5)
_SEED = 0
_NORMAL = 1.96


@dataclass(frozen=True)
class Paired:
    """A run beside the first one. gains: metric -> by how much it is better, with the 95 %
    interval, paired over the rows; mended: indices of the rows that it alone has right, the ones
    of which the first was surest first; broken: of those that the first alone has right."""

    gains: dict[str, Estimate]
    mended: np.ndarray
    broken: np.ndarray


def same_rows(runs: Sequence[RunRecord]) -> bool:
    """Return whether all runs have answered the same test rows."""
    first, *others = [run.rows for run in runs]
    return first is not None and all(
        rows is not None and np.array_equal(rows.rows, first.rows) and rows.truth == first.truth
        for rows in others
    )


def paired(run: RunRecord, first: RunRecord) -> Paired:
    """Compare a run with the first one, by a bootstrap paired over the rows (Efron 1979). The runs
    have the same test rows and task."""
    assert run.rows is not None and first.rows is not None
    gains = dict(_gains(run, first)) or dict(_of_rows(run.rows, first.rows))
    right, was_right = run.rows.errors == 0, first.rows.errors == 0
    order = np.argsort(-np.abs(run.rows.losses - first.rows.losses), kind="stable")
    changed = {name: order[which[order]] for name, which in _changed(right, was_right)}
    return Paired(gains, **changed)


def _changed(right: np.ndarray, was_right: np.ndarray) -> list[tuple[str, np.ndarray]]:
    return [("mended", right & ~was_right), ("broken", ~right & was_right)]


def _gains(run: RunRecord, first: RunRecord) -> Iterator[tuple[str, Estimate]]:
    """Yield the gains in the metrics of tasks with labels or numbers."""
    assert run.rows is not None and first.rows is not None
    labels = sorted(
        set(run.info.labels if run.info else ()) | set(first.info.labels if first.info else ())
    )
    answers = answers_of_runs(run.task, labels, [first.rows, run.rows])
    if answers is None:
        return
    signs = signs_of(answers, run.task)
    found, drawn = answers.scores(), answers.resampled(_SEED)
    values, gaps = signs * (found[1] - found[0]), signs * (drawn[:, 1] - drawn[:, 0])
    lows, highs = np.percentile(gaps, _TAILS, axis=0)
    for name, value, low, high in zip(answers.metrics, values, lows, highs, strict=True):
        yield name, Estimate(value=float(value), low=float(low), high=float(high))


def _of_rows(rows: TestRows, first: TestRows) -> Iterator[tuple[str, Estimate]]:
    """Yield the gain in the mean error of answers, else in the mean loss, of any other task."""
    judged = rows.are_judged and first.are_judged
    gaps = first.errors - rows.errors if judged else first.losses - rows.losses
    mean, half = float(gaps.mean()), _NORMAL * float(gaps.std()) / np.sqrt(max(1, len(gaps)))
    yield "error" if judged else "loss", Estimate(value=mean, low=mean - half, high=mean + half)
