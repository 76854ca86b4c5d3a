"""Writes a sweep's report.html, one self-contained file with the trials and the depths."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from ftray.models.artifact.sample_size import about
from ftray.train.progress import BEST
from ftray.tune.depth import ENOUGH_TRIALS, Comparison, Depth
from ftray.tune.trial_state import TrialState

FILE = "report.html"

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem;
  color: #1d2430; background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .75rem; text-align: right; border-bottom: 1px solid #dde2ea }
th { font-weight: 600 } tr.chosen td { background: #e7f3ec; font-weight: 600 }
svg { width: 100%; max-width: 44rem; height: auto } svg text { font-size: 13px; fill: #46505f }
.axis { stroke: #aab3c0 } .bar { stroke: #3465a4; stroke-width: 2 } .front { stroke: #2e8b57 }
.dot { fill: #3465a4 } .dot.pareto { fill: #2e8b57 }
.dot.chosen { stroke: #1d2430; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
  body { color: #e4e8ee; background: #171b21 } th, td { border-color: #333b47 }
  tr.chosen td { background: #1e3a2b } svg text { fill: #a9b4c2 } .dot.chosen { stroke: #fff } }
"""
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 320, 70, 30, 20, 50


def page(name: str, metric: str, trials: Sequence[TrialState], comparison: Comparison) -> str:
    """Return the whole HTML document. trials: best first."""
    depths = comparison.depths
    parts = [f"<h1>Sweep of {escape(name)}</h1>", f"<p>{escape(summary(metric, trials))}</p>"]
    if depths:
        parts += [
            "<h2>What depth buys</h2>",
            f"<p>{escape(advice(metric, comparison))}</p>",
            _plot(metric, depths),
            _table(_depth_rows(metric, depths), [depth.recommended for depth in depths]),
            f"<p>{escape(note(comparison))}</p>",
        ]
    first = [number == 0 for number in range(len(trials))]
    rows = trial_rows(metric, trials)
    for row, trial in zip(rows, trials, strict=True):
        row["status"] = trial.error or trial.status
    parts += ["<h2>Trials</h2>", _table(rows, first)]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(name)}</title><style>{_STYLE}</style>"
    )
    body = "\n".join(parts)
    return f'<!doctype html><html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def summary(metric: str, trials: Sequence[TrialState]) -> str:
    best = trials[0]
    return (
        f"{len(trials)} trials. The best is trial {best.trial} with {metric} "
        f"{best.metrics[BEST]:.4f} on the validation split."
    )


def advice(metric: str, comparison: Comparison) -> str:
    """Return the sentence that recommends a depth, or says what would decide between depths."""
    chosen = comparison.recommended
    if chosen is None:
        return _untold(metric, comparison)
    lead = f"Train {named(chosen.unfreeze)}: {metric} {chosen.metric:.4f}"
    beyond = [d for d in comparison.depths if d.epoch_seconds > chosen.epoch_seconds]
    better = [depth for depth in beyond if comparison.is_better(depth, chosen)]
    if not better:
        return f"{lead}; nothing that trains longer was shown to do better."
    top = max(better, key=lambda depth: comparison.sign * depth.metric)
    return (
        f"{lead} at {chosen.epoch_seconds:.2g} s an epoch; {named(top.unfreeze)} reaches "
        f"{top.metric:.4f} at {top.epoch_seconds:.2g} s."
    )


def _untold(metric: str, comparison: Comparison) -> str:
    best, closest = comparison.best, _closest_open(comparison)
    return (
        f"Which depth to train cannot be told yet: {named(best.unfreeze)} reached {metric} "
        f"{best.metric:.4f} and {named(closest.unfreeze)}, which is faster, {closest.metric:.4f}"
        f"{_why_open(comparison, closest)}. What would tell: {_what_tells(comparison, closest)}."
    )


def _closest_open(comparison: Comparison) -> Depth:
    """Return the depth with the best metric among the faster ones that may be as good as the
    best."""
    return max(comparison.open(), key=lambda depth: comparison.sign * depth.metric)


def _why_open(comparison: Comparison, depth: Depth) -> str:
    best = comparison.best
    lead = comparison.lead(best, depth)
    if lead is None:
        return "; one seed does not tell how far a loss may be off"
    if lead[1] <= 0:
        return f", a difference that {comparison.rows:,} validation rows leave open"
    fewest = min(best.trials, depth.trials)
    return (
        f", but with {fewest} trial{'' if fewest == 1 else 's'} at a depth the other values may "
        "have made the difference"
    )


def _what_tells(comparison: Comparison, depth: Depth) -> str:
    needs = []
    if not comparison.comparable(comparison.best, depth):
        trials = ENOUGH_TRIALS * len(comparison.depths)
        needs.append(
            f"at least {ENOUGH_TRIALS} trials at each depth (tune.trials of {trials} or more, or "
            "tune.searcher: grid)"
        )
    lead = comparison.lead(comparison.best, depth)
    if lead is None:
        needs.append(f"tune.finalists with {len(comparison.depths)} trials and 3 seeds or more")
    elif lead[1] <= 0:
        needs.append(_more(comparison, depth))
    return ", and ".join(needs)


def _more(comparison: Comparison, depth: Depth) -> str:
    """Return the number of seeds or validation rows that makes the intervals narrow enough, as
    text."""
    seeds = min(depth.seeds, comparison.best.seeds)
    if seeds > 1:
        needed = comparison.needed(depth, seeds)
        return f"tune.finalists.seeds of about {about(needed)}" if needed else "no number of seeds"
    needed = comparison.needed(depth, comparison.rows)
    return f"about {about(needed)} validation rows" if needed else "more than a million rows"


def note(comparison: Comparison) -> str:
    """Return the note that explains the intervals and the recommendation."""
    return (
        "Intervals: 95 %, of the trial with that metric, over its seeds or as a share of the "
        f"{comparison.rows:,} validation rows. The choice: the fastest depth that is as good as "
        "the best, where that can be told. Beaten: a depth that trains no longer was shown to be "
        "better."
    )


def named(unfreeze: Any) -> str:
    if isinstance(unfreeze, int):
        plural = "" if unfreeze == 1 else "s"
        return f"the top {unfreeze} block{plural}" if unfreeze else "the head alone"
    return "all blocks" if unfreeze == "all" else str(unfreeze)


def depth_cells(depth: Depth) -> dict[str, str]:
    """Return a row of the table of depths as {heading: cell}."""
    interval = "" if depth.low is None else f"{depth.low:.4f} to {depth.high:.4f}"
    cells = {
        "trains": named(depth.unfreeze),
        "trials": str(depth.trials),
        "best": f"{depth.metric:.4f}",
        "95 %": interval,
        "s an epoch": f"{depth.epoch_seconds:.2f}",
        "memory": "" if depth.memory is None else f"{depth.memory / 1e9:.2f} GB",
        "worker-hours": f"{depth.worker_hours:.3f}",
    }
    if depth.cost is not None:
        cells["cost"] = f"{depth.cost:.2f}"
    cells[""] = "take this" if depth.recommended else "beaten" if depth.beaten else ""
    return cells


def _depth_rows(metric: str, depths: Sequence[Depth]) -> list[dict[str, str]]:
    return [
        {metric if key == "best" else key: cell for key, cell in depth_cells(depth).items()}
        for depth in depths
    ]


def trial_rows(metric: str, trials: Sequence[TrialState]) -> list[dict[str, str]]:
    """Return the rows of the table of trials as {heading: cell}, the most important cells first."""
    return [
        {
            "trial": trial.trial,
            metric: f"{trial.metrics[BEST]:.4f}" if BEST in trial.metrics else "",
            "status": trial.status,
            "seconds": f"{trial.seconds:.1f}",
            **{key.rpartition(".")[2]: _short(trial.config.get(key)) for key in trials[0].config},
        }
        for trial in trials
    ]


def _table(rows: Sequence[dict[str, str]], chosen: Iterable[bool]) -> str:
    head = "".join(f"<th>{escape(key)}</th>" for key in rows[0])
    lines = [
        f"<tr{' class=chosen' if is_chosen else ''}>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in row.values())
        + "</tr>"
        for row, is_chosen in zip(rows, chosen, strict=True)
    ]
    return f'<div class="wide"><table><tr>{head}</tr>\n' + "\n".join(lines) + "</table></div>"


def _plot(metric: str, depths: Sequence[Depth]) -> str:
    """Return an SVG plot of the metric against seconds per epoch, with intervals and the Pareto
    front."""
    lows = [depth.metric if depth.low is None else depth.low for depth in depths]
    highs = [depth.metric if depth.high is None else depth.high for depth in depths]
    low, high = min(lows), max(highs)
    most = max(depth.epoch_seconds for depth in depths)

    def x(seconds: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * seconds / most

    def y(value: float) -> float:
        share = (value - low) / (high - low) if high > low else 0.5
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * share

    base, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    shapes = [
        f'<line class="axis" x1="{_LEFT}" y1="{base}" x2="{right}" y2="{base}"/>',
        f'<line class="axis" x1="{_LEFT}" y1="{_TOP}" x2="{_LEFT}" y2="{base}"/>',
        f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 8}" text-anchor="middle">seconds an epoch'
        "</text>",
        f'<text x="{_LEFT}" y="14" text-anchor="middle">{escape(metric)}</text>',
    ]
    for value in (low, (low + high) / 2, high):
        shapes.append(
            f'<text x="{_LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.3f}</text>'
        )
    for seconds in (0.0, most / 2, most):
        shapes.append(
            f'<text x="{x(seconds):.1f}" y="{base + 18}" text-anchor="middle">{seconds:.2g}</text>'
        )
    front = " ".join(f"{x(d.epoch_seconds):.1f},{y(d.metric):.1f}" for d in depths if d.pareto)
    shapes.append(f'<polyline class="front" fill="none" points="{front}"/>')
    for depth, bottom, top in zip(depths, lows, highs, strict=True):
        at, kind = x(depth.epoch_seconds), "dot"
        kind += " pareto" if depth.pareto else ""
        kind += " chosen" if depth.recommended else ""
        anchor = "end" if at > _WIDTH / 2 else "start"
        shift = -10 if anchor == "end" else 10
        shapes += [
            f'<line class="bar" x1="{at:.1f}" y1="{y(bottom):.1f}" x2="{at:.1f}" '
            f'y2="{y(top):.1f}"/>',
            f'<circle class="{kind}" cx="{at:.1f}" cy="{y(depth.metric):.1f}" r="6"/>',
            f'<text x="{at + shift:.1f}" y="{y(depth.metric) - 10:.1f}" text-anchor="{anchor}">'
            f"{escape(named(depth.unfreeze))}</text>",
        ]
    label = f"{metric} of each depth against its seconds an epoch"
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">'
        + "".join(shapes)
        + "</svg>"
    )


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
