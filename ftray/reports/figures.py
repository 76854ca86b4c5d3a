"""Draws charts with matplotlib, as inline SVG whose colours are CSS variables, so that a chart
follows the page into dark mode, and whose texts stay texts."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

WIDTH, HEIGHT = 380, 230
"""Size of a chart in CSS pixels: three side by side on a desktop, one on a phone."""
_POINTS = 72 / 96
"""Points of a CSS pixel."""
INK, MUTED, GRID, PAPER = "#010101", "#020202", "#030303", "#040404"
SERIES = ("#050501", "#050502", "#050503", "#050504", "#050505", "#050506")
"""Colours that stand for CSS variables until the chart is written."""
_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "line",
    PAPER: "paper",
    **{colour: f"c{number}" for number, colour in enumerate(SERIES, 1)},
}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a label may hold any character, the dollar sign among them
    "axes.unicode_minus": True,
    "font.size": 8.5,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0,
    "xtick.major.size": 2.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-4, 6),
}


@dataclass(frozen=True)
class Chart:
    """A chart of a report. legend: name and colour of each series, where there are several; note: a
    sentence under the title."""

    title: str
    svg: Markup
    legend: Sequence[tuple[str, str]] = ()
    note: str = ""
    wide: bool = False


def chart(
    title: str,
    draw: Callable[[Axes], None],
    legend: Sequence[tuple[str, str]] = (),
    note: str = "",
    size: tuple[int, int] = (WIDTH, HEIGHT),
) -> Chart:
    """Draw a chart. draw: draws on the axes, in colours of this module; legend: names, colours."""
    named = [(name, css(colour)) for name, colour in legend]
    return Chart(title, drawn(title, draw, size), named, note, size[0] > WIDTH)


def drawn(title: str, draw: Callable[[Axes], None], size: tuple[int, int]) -> Markup:
    """Return the SVG of a chart; title: what a screen reader says."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with mpl.rc_context({**_STYLE, "svg.hashsalt": title}):
        width, height = (each * _POINTS / 72 for each in size)
        layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02)
        figure = Figure(figsize=(width, height), layout=layout)
        FigureCanvasSVG(figure)
        draw(figure.subplots())
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None})
    return _inline(written.getvalue(), title, size)


_NUMBER = re.compile(r"-?\d+\.\d{2,}")


def _rounded(found: re.Match[str]) -> str:
    return f"{float(found[0]):.1f}"


def gaps(values: ArrayLike, lows: ArrayLike, highs: ArrayLike) -> np.ndarray:
    """Return how far intervals reach below and above their values, (2, N), as error bars need."""
    value, low, high = (
        np.atleast_1d(np.asarray(part, np.float64)) for part in (values, lows, highs)
    )
    return np.maximum(np.stack([value - low, high - value]), 0)


def css(colour: str) -> str:
    """Return a colour of this module as CSS."""
    return f"var(--{_VARIABLES[colour]})" if colour in _VARIABLES else colour


def _inline(svg: str, title: str, size: tuple[int, int]) -> Markup:
    """Return a whole SVG file as an element of a page, at less than half of its size."""
    body = svg[svg.index("<svg") :]
    view = re.search(r'viewBox="([^"]*)"', body)
    assert view is not None
    body = body[body.index(">") + 1 : body.rindex("</svg>")]
    body = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.S)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]*)', body))
    body = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", body)
    body = re.sub(r"<[^>]*>", lambda tag: _NUMBER.sub(_rounded, tag[0]), body)
    body = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", body)
    body = re.sub(r"font-family: [^;\"]*;?", "", body)
    body = re.sub(r">\s+<", "><", body)
    for colour, name in _VARIABLES.items():
        body = body.replace(colour, f"var(--{name})")
    width, height = size
    return Markup(
        f'<svg role="img" aria-label="{escape(title)}" viewBox="{view[1]}" '
        f'style="max-width:{width}px;aspect-ratio:{width}/{height}">{body}</svg>'
    )


def sparkline(values: Sequence[float], low: float, high: float, stopped: bool) -> Markup:
    """Return a small curve for a table. low, high: the range of all curves of the table; stopped:
    whether the last point is marked as an early stop."""
    width, height = 90, 22
    span = (high - low) or 1.0
    step = (width - 8) / max(1, len(values) - 1)
    points = [
        (4 + step * place, height - 4 - (height - 8) * (value - low) / span)
        for place, value in enumerate(values)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    x, y = points[-1] if points else (4, height / 2)
    end = (
        f'<path d="M{x - 3:.1f},{y - 3:.1f}l6,6m0,-6l-6,6" class="stop"/>'
        if stopped
        else f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.2"/>'
    )
    return Markup(
        f'<svg class="spark" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'aria-hidden="true"><polyline points="{line}"/>{end}</svg>'
    )
