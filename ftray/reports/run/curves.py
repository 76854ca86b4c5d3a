"""Plots how a training went: losses, metrics, learning rate and phases, speed, memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ftray.models.artifact.worth import name_of
from ftray.reports.figures import INK, MUTED, PAPER, SERIES, Chart, chart
from ftray.reports.record import Event, RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS = 240
"""Most points of a curve; a longer one is averaged."""
_SMOOTHED = 40
"""About how many points a smoothed curve may be told apart by."""


def training_charts(run: RunRecord) -> Iterator[Chart]:
    """Yield the charts of a training; none before its first step."""
    if not run.steps:
        return
    yield _losses(run)
    if chart_ := _metrics(run):
        yield chart_
    yield _rates(run)
    if "rows" in run.steps[0]:
        yield _speed(run)
    if chart_ := _memory(run):
        yield chart_


def side_by_side(runs: Sequence[RunRecord], names: Sequence[str]) -> Iterator[Chart]:
    """Yield charts with the curves of several runs over epochs: the metric, and both losses."""
    legend = list(zip(names, SERIES, strict=False))
    keys = [(run.metric, name_of(run.metric)) for run in runs[:1]]
    keys += [("loss", "validation loss"), ("train_loss", "training loss")]
    for key, name in dict(keys).items():
        curves = [[(e["epoch"], e.get(key)) for e in run.epochs] for run in runs]
        if any(curves):
            yield chart(f"{name[:1].upper()}{name[1:]} by epoch", partial(_lines, curves), legend)


def _lines(curves: Sequence[Sequence[tuple[int, Any]]], axes: Axes) -> None:
    for curve, colour in zip(curves, SERIES, strict=False):
        known = [(x, y) for x, y in curve if y is not None]
        axes.plot([x for x, _ in known], [y for _, y in known], marker="o", color=colour)
    _whole_ticks(axes)
    axes.set_xlabel("epoch")


def _losses(run: RunRecord) -> Chart:
    step, loss = _column(run.steps, "loss")
    at, thin = _averaged(step, loss, _POINTS)
    smooth_at, smooth = _averaged(step, loss, _SMOOTHED)

    def draw(axes: Axes) -> None:
        axes.plot(at, thin, color=SERIES[0], alpha=0.3, linewidth=0.9)
        axes.plot(smooth_at, smooth, color=SERIES[0])
        held = [e for e in run.epochs if e.get("loss") is not None]
        axes.plot([e["step"] for e in held], [e["loss"] for e in held], "o-", color=SERIES[1])
        _mark_phases(run, axes)
        axes.set_xlabel("step")

    return chart("Loss", draw, [("training", SERIES[0]), ("validation", SERIES[1])])


def _metrics(run: RunRecord) -> Chart | None:
    names = [m for m in (run.metric, *run.task.headline) if m != "loss"]
    shown = [name for name in dict.fromkeys(names) if any(name in e for e in run.epochs)][:2]
    if not shown:
        return None

    def draw(axes: Axes) -> None:
        for name, colour in zip(shown, SERIES, strict=False):
            known = [e for e in run.epochs if e.get(name) is not None]
            axes.plot([e["epoch"] for e in known], [e[name] for e in known], "o-", color=colour)
        best = run.best_epoch
        if best is not None and run.metric in shown:
            colour = SERIES[shown.index(run.metric)]
            axes.plot(
                best["epoch"], best[run.metric], "o", markersize=9, markerfacecolor=PAPER,
                markeredgecolor=colour, markeredgewidth=2,
            )  # fmt: skip
        _whole_ticks(axes)
        axes.margins(0.08, 0.15)
        axes.set_xlabel("epoch")

    legend = [(name_of(name), colour) for name, colour in zip(shown, SERIES, strict=False)]
    return chart("Validation metrics", draw, legend)


def _rates(run: RunRecord) -> Chart:
    from matplotlib.ticker import MaxNLocator

    step, rate = _column(run.steps, "learning_rate")
    at, thin = _averaged(step, rate, _POINTS)

    def draw(axes: Axes) -> None:
        axes.plot(at, thin, color=SERIES[2])
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
        _mark_phases(run, axes)
        axes.set_xlabel("step")

    return chart("Learning rate", draw)


def _speed(run: RunRecord) -> Chart:
    step, rows = _column(run.steps, "rows")
    _, seconds = _column(run.steps, "seconds")
    at, summed = _averaged(step, rows, _SMOOTHED)
    _, spent = _averaged(step, seconds, _SMOOTHED)

    def draw(axes: Axes) -> None:
        axes.plot(at, summed / np.maximum(spent, 1e-9), color=SERIES[3])
        axes.set_ylim(bottom=0)
        axes.set_xlabel("step")

    return chart("Samples a second", draw)


def _memory(run: RunRecord) -> Chart | None:
    keys = [("memory", "process", SERIES[4]), ("gpu_memory", "GPU", SERIES[5])]
    counts = {key: sum(key in step for step in run.steps) for key, _, _ in keys}
    there = [key for key in keys if counts[key[0]] > 1]  # one point makes no line
    if not there:
        return None

    def draw(axes: Axes) -> None:
        for key, _, colour in there:
            step, held = _column([s for s in run.steps if key in s], key)
            at, thin = _averaged(step, held / 1e9, _POINTS)
            axes.plot(at, thin, color=colour)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("step")

    return chart(
        "Memory of rank 0, GB", draw, [(n, c) for _, n, c in there][: len(there) - 1 and 2]
    )


def _mark_phases(run: RunRecord, axes: Axes) -> None:
    for phase in run.phases[1:]:
        axes.axvline(phase["step"], color=INK, linewidth=0.8, linestyle=(0, (2, 2)))
    if len(run.phases) > 1:
        for number, phase in enumerate(run.phases, 1):
            axes.annotate(
                str(number), (phase["step"], 1), (3, -2), ("data", "axes fraction"),
                textcoords="offset points", va="top", color=MUTED,
            )  # fmt: skip


def _whole_ticks(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))


def _column(events: Sequence[Event], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps, and the values of `key`, NaN where one is unknown."""
    values = (np.nan if event.get(key) is None else event[key] for event in events)
    return (
        np.array([event["step"] for event in events], np.float64),
        np.fromiter(values, np.float64, len(events)),
    )


def _averaged(x: np.ndarray, y: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return at most `most` points: means of neighbours."""
    if len(x) <= most:
        return x, y
    groups = np.array_split(np.arange(len(x)), most)
    with np.errstate(all="ignore"):
        return np.array([x[g].mean() for g in groups]), np.array([y[g].mean() for g in groups])
