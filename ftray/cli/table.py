"""Tables on stdout: drawn on a terminal, tab-separated for programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_HEADLINE = {"perplexity": "perplexity", "accuracy": "accuracy", "f1_macro": "macro-F1"}


def show(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows under their headings, if they have any. Floats get four places; None is a dash."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    shown = [[_text(value) for value in row] for row in rows]
    if not console.is_terminal:
        for line in [list(columns), *shown] if any(columns) else shown:
            print("\t".join(line))
        return
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, show_header=any(columns))
    for number, column in enumerate(columns):
        numbers = all(_is_number(row[number]) for row in shown) and shown
        # Names and paths are to be copied, so they wrap and are never cut off.
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in shown:
        table.add_row(*(Text(value) for value in row))
    console.print(table)


def headline(metrics: Mapping[str, Any]) -> str:
    """The metrics that people look at first, of those that there are."""
    shown = ((name, metrics[key]) for key, name in _HEADLINE.items() if key in metrics)
    return "  ".join(f"{name} {value:.4f}" for name, value in shown)


def duration(seconds: float) -> str:
    """Seconds as a person says them: 41 s, 7 min 3 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(count: int) -> str:
    """Bytes as a person says them: 90.9 MB."""
    amount = float(count)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"


def _text(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}" if 1e-3 <= abs(value) < 1e6 or value == 0 else f"{value:.3g}"
    return " ".join(str(value).split())


def _is_number(text: str) -> bool:
    return text == "-" or text.replace(".", "", 1).replace("e-", "", 1).lstrip("-").isdigit()
