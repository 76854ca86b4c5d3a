"""Tables and figures: drawn for people on a terminal, tab-separated for programs."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ftray.tasks import TASKS

_OWN_NAMES = {"f1_macro": "macro-F1", "f1": "F1"}
_HEADLINE = {
    name: _OWN_NAMES.get(name, name.replace("_", " "))
    for name in ("loss", "perplexity", *(m for t in TASKS.values() for m in t.info.headline))
}
"""Metrics that are shown while a model trains -> their names for people."""
_GAP = "  "


def show(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], *, spare: Sequence[str] = ()
) -> None:
    """Print rows, under their headings where there are any. Floats get four places; None is a dash.

    Where a terminal is too narrow for all columns, leaves out those of `spare`, the first of them
    first, and then the rightmost ones; a line says so. Never cuts a cell.
    """
    from rich.console import Console

    console = Console()
    shown = [[_text(value) for value in row] for row in rows]
    if not console.is_terminal:
        for line in [list(columns), *shown] if any(columns) else shown:
            print("\t".join(line))
        return
    for drawn in draw(columns, shown, console.width, spare):
        print(drawn)


def draw(
    columns: Sequence[str], rows: Sequence[Sequence[str]], width: int, spare: Sequence[str] = ()
) -> list[str]:
    """Return the lines of a table of at most `width` terminal columns, as `show` prints them. Lines
    are longer only where the first column and one more do not fit beside each other."""
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    kept = _kept(columns, widths, width, spare)
    numbers = {n for n in kept if rows and all(_is_number(row[n]) for row in rows)}
    lines = [list(columns), ["-" * w for w in widths], *rows] if any(columns) else list(rows)
    drawn = [
        _GAP.join(
            line[n].rjust(widths[n]) if n in numbers else line[n].ljust(widths[n]) for n in kept
        ).rstrip()
        for line in lines
    ]
    left_out = [name for n, name in enumerate(columns) if n not in kept]
    if left_out:
        drawn.append(f"(no room for {len(left_out)} more columns; --json has all)")
    return drawn


def _kept(
    columns: Sequence[str], widths: Sequence[int], width: int, spare: Sequence[str]
) -> list[int]:
    """Return the numbers of the columns that fit. The first column and one more always stay."""
    kept = list(range(len(columns)))
    by_need = [list(columns).index(name) for name in spare if name in columns]
    by_need += [n for n in reversed(kept) if n not in by_need]
    for number in by_need:
        if sum(widths[n] for n in kept) + len(_GAP) * (len(kept) - 1) <= width or len(kept) <= 2:
            break
        if number > 0:
            kept.remove(number)
    return kept


def headline(metrics: Mapping[str, Any], but: str = "") -> str:
    """Name the metrics that people look at first, as far as `metrics` has them, without the metric
    `but`."""
    shown = (
        (name, metrics[key]) for key, name in _HEADLINE.items() if key in metrics and key != but
    )
    return "  ".join(f"{name} {value:.4f}" for name, value in shown)


def duration(seconds: float) -> str:
    """Format seconds as a person says them: 41 s, 7 min 3 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def short(value: Any) -> str:
    """Format a value of a spec in few characters."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def stderr_width() -> int | None:
    """Return the columns of stderr's terminal; None where stderr is no terminal."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or None
    except (OSError, ValueError):
        return None


def wrapped(text: str, width: int) -> str:
    """Break the text between words into lines of at most `width` columns. A longer word stays
    whole, so that it can be copied."""
    lines = []
    for line in text.splitlines() or [""]:
        indent = " " * (len(line) - len(line.lstrip()) + 2)
        lines += textwrap.wrap(
            line,
            width,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        ) or [""]
    return "\n".join(lines)


def fitting(parts: Sequence[str], width: int) -> str:
    """Join as many parts as fit into `width` columns; always keeps the first part."""
    line = parts[0]
    for part in parts[1:]:
        if part and len(line) + len(_GAP) + len(part) <= width:
            line = f"{line}{_GAP}{part}"
    return line


def _text(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}" if 1e-3 <= abs(value) < 1e6 or value == 0 else f"{value:.3g}"
    return " ".join(str(value).split())


def _is_number(text: str) -> bool:
    return text == "-" or text.replace(".", "", 1).replace("e-", "", 1).lstrip("-").isdigit()
