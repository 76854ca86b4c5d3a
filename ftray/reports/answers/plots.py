"""Views of the test rows of a run: confusions, scores of labels, calibration, residuals, and how
errors depend on the length of a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ftray.models.artifact.sample_size import wilson
from ftray.models.artifact.worth import Estimate
from ftray.models.inference.significance import Answers, LabelAnswers, NumberAnswers
from ftray.reports.answers.calibration import Calibration, calibration
from ftray.reports.figures import INK, MUTED, SERIES, Chart, chart, gaps
from ftray.reports.test_rows import TestRows
from ftray.tasks.info import TaskInfo
from ftray.tasks.per_label import LabelScore, label_scores, most_confused

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_IN_MATRIX = 12
"""Most labels of a confusion matrix; of more, the report lists the commonest confusions."""
_PAIRS = 15
_POINTS = 800
_GROUPS = 6
_TAILS = (2.5, 97.5)
_SEED = 0


@dataclass(frozen=True)
class ScoredLabel:
    """The scores of a label with the 95 % intervals of precision, recall and F1."""

    score: LabelScore
    precision: tuple[float, float]
    recall: tuple[float, float]
    f1: tuple[float, float]

    @classmethod
    def of(cls, score: LabelScore) -> Self:
        precision = wilson(score.precision, score.predicted)
        recall = wilson(score.recall, score.rows)
        return cls(score, precision, recall, _f1_interval(score))


def _f1_interval(score: LabelScore) -> tuple[float, float]:
    """Return the interval of a label's F1. F1 rises with F* (Hand et al. 2021), the share of right
    rows among those that have the label or got it, of which Wilson's interval is known."""
    right = round(score.recall * score.rows)
    rows = score.rows + score.predicted - right
    low, high = (2 * share / (1 + share) for share in wilson(right / max(rows, 1), rows))
    return low, high


@dataclass(frozen=True)
class LabelView:
    """Figures of the test rows of a task with labels. matrix: rows by true and predicted label,
    empty with many labels; pairs: the commonest confusions."""

    labels: tuple[str, ...]
    scores: tuple[ScoredLabel, ...]
    matrix: tuple[tuple[int, ...], ...]
    pairs: Sequence[dict[str, Any]]
    calibration: Calibration | None


def indices(rows: TestRows, labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the label indices of truth and predictions, (N,) each."""
    place = {label: index for index, label in enumerate(labels)}
    truth, predicted = (
        np.array([place[name] for name in names], np.int64)
        for names in (rows.truth, rows.predicted)
    )
    return truth, predicted


def label_view(rows: TestRows, labels: Sequence[str]) -> LabelView:
    truth, predicted = indices(rows, labels)
    scored = tuple(ScoredLabel.of(score) for score in label_scores(truth, predicted, labels))
    matrix: list[tuple[int, ...]] = []
    if len(labels) <= MOST_IN_MATRIX:
        cells = np.bincount(truth * len(labels) + predicted, minlength=len(labels) ** 2)
        matrix = [tuple(row) for row in cells.reshape(len(labels), -1).tolist()]
    sure = None if rows.shares is None else calibration(rows.shares, truth)
    pairs = most_confused(truth, predicted, labels, _PAIRS)
    return LabelView(tuple(labels), scored, tuple(matrix), pairs, sure)


def answers_of_runs(
    info: TaskInfo, labels: Sequence[str], runs: Sequence[TestRows]
) -> Answers | None:
    """Return the answers of several runs to the same rows, as bootstrap needs them; None for a task
    without labels or numbers."""
    if info.has_labels:
        each = [indices(rows, labels) for rows in runs]
        return LabelAnswers.of(each[0][0], [predicted for _, predicted in each], len(labels))
    if info.output == "numbers":
        truth = as_numbers(runs[0].truth)
        return NumberAnswers(truth, tuple(as_numbers(rows.predicted) for rows in runs))
    return None


def intervals(answers: Answers) -> dict[str, Estimate]:
    """Return the metrics of the first model with their 95 % bootstrap intervals."""
    found, drawn = answers.scores()[0], answers.resampled(_SEED)[:, 0]
    lows, highs = np.percentile(drawn, _TAILS, axis=0)
    each = zip(answers.metrics, found, lows, highs, strict=True)
    return {
        name: Estimate(value=float(value), low=float(low), high=float(high))
        for name, value, low, high in each
    }


def as_numbers(values: Sequence[Any]) -> np.ndarray:
    """Return the numbers of rows, (N, C)."""
    return np.array(values, np.float64).reshape(len(values), -1)


def reliability(found: Calibration) -> Chart:
    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
        for bins, colour, marker in ((found.scaled, SERIES[1], "D"), (found.bins, SERIES[0], "o")):
            at = [b.sure for b in bins], [b.right for b in bins]
            axes.plot(*at, marker=marker, color=colour, linewidth=1.2)
        each = np.array([(b.sure, b.right, b.low, b.high) for b in found.bins])
        sure, right, low, high = each.T
        spans = gaps(right, low, high)
        axes.errorbar(sure, right, spans, fmt="none", ecolor=SERIES[0], elinewidth=0.9)
        axes.set_xlim(min(0.5, min(sure)) - 0.02, 1.02)
        axes.set_ylim(min(0.5, *(b.low for b in found.bins)) - 0.02, 1.02)
        axes.set_xlabel("confidence")
        axes.set_ylabel("share right")

    legend = [("as trained", SERIES[0]), (f"temperature {found.temperature:.2f}", SERIES[1])]
    return chart("Reliability", draw, legend)


def number_charts(rows: TestRows) -> list[Chart]:
    """Plot predictions against the truth, and the distribution of their differences."""
    truth, predicted = as_numbers(rows.truth).ravel(), as_numbers(rows.predicted).ravel()
    some = np.unique(np.linspace(0, len(truth) - 1, min(_POINTS, len(truth))).astype(int))
    low, high = min(truth.min(), predicted.min()), max(truth.max(), predicted.max())

    def scatter(axes: Axes) -> None:
        axes.plot([low, high], [low, high], color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
        axes.scatter(truth[some], predicted[some], s=7, color=SERIES[0], alpha=0.45, linewidth=0)
        axes.set_xlabel("truth")
        axes.set_ylabel("prediction")

    def histogram(axes: Axes) -> None:
        axes.hist(predicted - truth, bins=30, color=SERIES[0], rwidth=0.9)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_xlabel("prediction − truth")
        axes.set_ylabel("rows")

    return [chart("Prediction against truth", scatter), chart("Residuals", histogram)]


def error_histogram(rows: TestRows) -> Chart:
    """Plot the distribution of errors, or of losses where answers are not judged."""
    values = rows.errors if rows.are_judged else rows.losses
    name = "error, 0 where right" if rows.are_judged else "loss"

    def draw(axes: Axes) -> None:
        axes.hist(values[np.isfinite(values)], bins=30, color=SERIES[0], rwidth=0.9)
        axes.set_xlabel(name)
        axes.set_ylabel("rows")

    return chart(f"{'Errors' if rows.are_judged else 'Losses'} of the test rows", draw)


def by_length(rows: TestRows, shares: bool) -> Chart | None:
    """Plot how wrong answers are by the length of rows; None where all are as long. shares: whether
    to plot the share of wrong answers, else the mean error or loss."""
    edges = np.unique(np.quantile(rows.lengths, np.linspace(0, 1, _GROUPS + 1)).astype(int))
    if len(edges) < 3:
        return None
    wrong = rows.errors if rows.are_judged else rows.losses
    values = (wrong > 0).astype(float) if shares else wrong
    groups = np.clip(np.searchsorted(edges, rows.lengths, "right") - 1, 0, len(edges) - 2)
    there = [group for group in range(len(edges) - 1) if (groups == group).any()]
    parts = [values[groups == group] for group in there]
    spans = [wilson(float(p.mean()), len(p)) if shares else _span(p) for p in parts]
    last = len(edges) - 2
    names = [f"{edges[g]}–{edges[g + 1] - (g < last)}" for g in there]
    what = "Share wrong" if shares else "Mean error" if rows.are_judged else "Mean loss"
    return chart(f"{what} by length", partial(_groups, parts, spans, names, shares))


def _groups(
    parts: Sequence[np.ndarray],
    spans: Sequence[tuple[float, float]],
    names: Sequence[str],
    shares: bool,
    axes: Axes,
) -> None:
    means = np.array([part.mean() for part in parts])
    lows, highs = np.array(spans).T
    places = np.arange(len(parts))
    axes.bar(places, means, 0.6, color=SERIES[0], alpha=0.35)
    axes.errorbar(places, means, gaps(means, lows, highs), fmt="o", color=SERIES[0], elinewidth=1.1)
    axes.set_xticks(places, names)
    axes.set_xlabel("tokens of a row")
    axes.set_ylim(bottom=0)
    if shares:
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")


def _span(values: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of the mean."""
    mean, half = float(values.mean()), 1.96 * float(values.std()) / np.sqrt(max(1, len(values)))
    return mean - half, mean + half
