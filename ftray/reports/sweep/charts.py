"""Plots a sweep: its trials over time, over each key and over all of them, and what depth buys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from ftray.models.artifact.worth import name_of
from ftray.reports.figures import INK, MUTED, PAPER, SERIES, Chart, chart, gaps
from ftray.reports.page import number, shown
from ftray.reports.record import Event
from ftray.reports.sweep.importance import as_number
from ftray.reports.sweep.trials import Trial, slots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Space = Mapping[str, Mapping[str, Any]]
"""Key of the spec -> its domain, as in the spec."""
_WIDE = (1160, 300)
_FAINT = 0.12
_MINUTES = "minutes since the first trial began"
_LABEL_LETTERS = 12


def best_so_far(trials: Sequence[Trial], metric: str, lowest: bool) -> Chart:
    """Plot each trial's metric when it ended, and the best until then."""
    ended = sorted((t for t in trials if t.best is not None and t.segments), key=_end)
    began = _began(trials)
    times = [(_end(trial) - began) / 60 for trial in ended]
    values = _values(ended).tolist()

    def draw(axes: Axes) -> None:
        axes.scatter(times, values, s=14, color=SERIES[0], alpha=0.5, linewidth=0)
        best = list(accumulate(values, min if lowest else max))
        axes.step(times, best, where="post", color=SERIES[1])
        axes.set_xlim(left=0)
        axes.set_xlabel(_MINUTES)

    legend = [("trials", SERIES[0]), ("best so far", SERIES[1])]
    return chart(f"Validation {name_of(metric)} over time", draw, legend)


def cost_front(trials: Sequence[Trial], metric: str, lowest: bool) -> Chart:
    """Plot each trial's metric against its seconds, and the trials that none beats in both."""
    known = sorted((t for t in trials if t.best is not None), key=lambda t: t.seconds)
    front: list[Trial] = []
    sign = -1 if lowest else 1
    for trial in known:
        if not front or sign * (trial.best or 0.0) > sign * (front[-1].best or 0.0):
            front.append(trial)

    def draw(axes: Axes) -> None:
        axes.scatter(
            [t.seconds for t in known],
            _values(known),
            s=14,
            color=SERIES[0],
            alpha=0.5,
            linewidth=0,
        )
        axes.plot([t.seconds for t in front], _values(front), "o-", color=SERIES[3])
        axes.set_xlabel("seconds of the trial")

    legend = [("trials", SERIES[0]), ("Pareto front", SERIES[3])]
    return chart(f"Validation {name_of(metric)} and time", draw, legend)


def depth_front(depths: Sequence[Event], metric: str) -> Chart:
    """Plot the best metric of each depth, with its 95 % interval, against seconds an epoch."""
    colours = [SERIES[place % len(SERIES)] for place in range(len(depths))]

    def draw(axes: Axes) -> None:
        front = [depth for depth in depths if depth["pareto"]]
        where = [d["epoch_seconds"] for d in front], [d["metric"] for d in front]
        axes.plot(*where, color=MUTED, linewidth=1)
        for depth, colour in zip(depths, colours, strict=True):
            value, low, high = depth["metric"], depth["low"], depth["high"]
            spans = None if low is None else gaps(value, low, high)
            axes.errorbar(
                depth["epoch_seconds"], value, spans, fmt="o", color=colour, markersize=7,
                elinewidth=1.6, markeredgecolor=INK if depth["recommended"] else colour,
            )  # fmt: skip
        axes.set_xlim(left=0)
        axes.set_xlabel("seconds an epoch")

    legend = [(d["name"], colour) for d, colour in zip(depths, colours, strict=True)]
    return chart(f"Validation {name_of(metric)} by depth", draw, legend)


def timeline(trials: Sequence[Trial], lowest: bool) -> Chart:
    """Plot which trial trained when, in which slot."""
    placed, shades, began = slots(trials), _shades(trials, lowest), _began(trials)
    rows = 1 + max((slot for slot, *_ in placed), default=0)

    def draw(axes: Axes) -> None:
        for slot, trial, begin, end in placed:
            axes.broken_barh(
                [((begin - began) / 60, (end - begin) / 60)], (slot - 0.42, 0.84), color=SERIES[0],
                alpha=shades.get(trial.name, _FAINT), edgecolor=PAPER, linewidth=0.5,
            )  # fmt: skip
        axes.set_yticks(range(rows), [f"slot {slot + 1}" for slot in range(rows)])
        axes.set_ylim(rows - 0.4, -0.6)
        axes.set_xlim(left=0)
        axes.grid(visible=False)
        axes.set_xlabel(_MINUTES)

    note = "the darker, the better"
    return chart("Trials over time", draw, note=note, size=(1160, min(420, 70 + 26 * rows)))


def parallel(trials: Sequence[Trial], space: Space, metric: str, lowest: bool) -> Chart:
    """Plot each trial as a line over the axes of all keys and of the metric."""
    known = [t for t in trials if t.best is not None and not t.is_seed]
    shades = _shades(known, lowest)
    columns = [[as_number(t.config.get(key), space[key]) for t in known] for key in space]
    columns.append(_values(known).tolist())
    scaled = np.array([_scaled(np.array(column, np.float64)) for column in columns]).T
    draw = partial(_draw_parallel, scaled, [shades[t.name] for t in known], _ends(known, space))
    names = [key.removeprefix("train.") for key in space]
    chart_ = partial(_named_axes, draw, [*names, name_of(metric)])
    return chart("All keys at once", chart_, note="the darker, the better", size=_WIDE)


def _draw_parallel(
    lines: np.ndarray, shades: Sequence[float], ends: Sequence[Sequence[tuple[float, str]]],
    axes: Axes,
) -> None:  # fmt: skip
    order = np.argsort(shades)
    for place in order:
        axes.plot(lines[place], color=SERIES[0], alpha=shades[place], linewidth=1.1)
    if len(lines):
        axes.plot(lines[order[-1]], color=SERIES[1], linewidth=2.4)
    for place, marks in enumerate(ends):
        axes.axvline(place, color=MUTED, linewidth=0.8)
        for height, text in marks:
            axes.annotate(
                text, (place, height), (4, 0), textcoords="offset points", va="center",
                color=INK,
                bbox={"facecolor": PAPER, "edgecolor": "none", "alpha": 0.75, "pad": 0.6},
            )  # fmt: skip


def _named_axes(draw: Any, names: Sequence[str], axes: Axes) -> None:
    draw(axes)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks([])
    axes.set_xlim(-0.15, len(names) - 0.55)
    axes.set_ylim(-0.06, 1.06)
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)


def _ends(trials: Sequence[Trial], space: Space) -> list[list[tuple[float, str]]]:
    """Return the marks of each axis, (height, text): every choice, or both ends."""
    marks = []
    for key, domain in space.items():
        values = np.array([as_number(t.config.get(key), domain) for t in trials], np.float64)
        choices = domain.get("choice")
        if choices is not None:
            used = sorted({int(v) for v in values if np.isfinite(v)})
            heights = _scaled(np.array(used, np.float64))
            names = [_short(choices[place]) for place in used]
        else:
            heights, bounds = np.array([0.0, 1.0]), (np.nanmin(values), np.nanmax(values))
            logarithmic = domain.get("loguniform") is not None
            names = [_short(10**b if logarithmic else b) for b in map(float, bounds)]
        marks.append(list(zip(heights.tolist(), names, strict=True)))
    best = [t.best for t in trials if t.best is not None]
    marks.append([(0.0, number(min(best))), (1.0, number(max(best)))] if best else [])
    return marks


def slices(trials: Sequence[Trial], space: Space, metric: str) -> list[Chart]:
    """Plot the metric over each key; trials that were stopped early are hollow."""
    known = [t for t in trials if t.best is not None and not t.is_seed]
    found = []
    for key, domain in space.items():
        name = key.removeprefix("train.")
        found.append(chart(name, partial(_draw_slice, known, key, domain, metric)))
    return found


def _draw_slice(
    trials: Sequence[Trial], key: str, domain: Mapping[str, Any], metric: str, axes: Axes
) -> None:
    chance = np.random.default_rng(0)
    choices = domain.get("choice")
    if choices is None:
        places = np.array([float(t.config.get(key, np.nan)) for t in trials])
    else:
        whole = np.array([as_number(t.config.get(key), domain) for t in trials])
        places = whole + chance.uniform(-0.18, 0.18, len(trials))
        names = [_short(choice) for choice in choices]
        crowded = sum(map(len, names)) > 42
        turned: dict[str, Any] = {"rotation": 30, "ha": "right"} if crowded else {}
        axes.set_xticks(range(len(names)), names, **turned)
    if domain.get("loguniform") is not None:
        _log_axis(axes, places)
    done = np.array([t.status == "done" for t in trials], bool)
    values = _values(trials)
    for those, filled in ((~done, PAPER), (done, SERIES[0])):
        axes.scatter(
            places[those], values[those], s=16, color=filled, edgecolor=SERIES[0], linewidth=0.8,
            alpha=0.75,
        )  # fmt: skip
    axes.set_ylabel(name_of(metric))


def _log_axis(axes: Axes, values: np.ndarray) -> None:
    from matplotlib.ticker import LogLocator

    decades = np.log10(np.nanmax(values) / np.nanmin(values))
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2 else (1,)))
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")


def _shades(trials: Sequence[Trial], lowest: bool) -> dict[str, float]:
    """Return the opacity of each trial by its rank: 1 for the best."""
    known = sorted((t for t in trials if t.best is not None), key=lambda t: t.best or 0.0)
    known = known[::-1] if lowest else known
    steps = max(1, len(known) - 1)
    return {t.name: _FAINT + (0.9 - _FAINT) * (n / steps) ** 2 for n, t in enumerate(known)}


def _scaled(values: np.ndarray) -> np.ndarray:
    low, high = np.nanmin(values, initial=np.inf), np.nanmax(values, initial=-np.inf)
    if not high > low:
        return np.full(len(values), 0.5)
    return (values - low) / (high - low)


def _values(trials: Sequence[Trial]) -> np.ndarray:
    return np.array([trial.best for trial in trials], np.float64)


def _began(trials: Sequence[Trial]) -> float:
    """Return when the first trial began to train."""
    return min((begin for trial in trials for begin, _ in trial.segments), default=0.0)


def _end(trial: Trial) -> float:
    return trial.segments[-1][1]


def _short(value: Any) -> str:
    text = f"{value:.2g}" if isinstance(value, float) else shown(value)
    return text if len(text) <= _LABEL_LETTERS else f"{text[: _LABEL_LETTERS - 1]}…"
