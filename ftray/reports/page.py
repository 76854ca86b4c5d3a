"""Renders a page: one HTML file that holds its style, its plots and its only script."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ftray.models.artifact.worth import name_of

_TEMPLATES = Path(__file__).with_name("templates")
# Characters that change the direction of a text around them, and control characters.
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]")


def render(template: str, **values: Any) -> str:
    """Return the page of a template, with all values escaped."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {
        "style": Markup((_TEMPLATES / "style.css").read_text()),
        "script": Markup((_TEMPLATES / "sort.js").read_text()),
    }
    filters: dict[str, Callable[[Any], str]] = {
        "number": number,
        "duration": duration,
        "count": lambda value: f"{value:,}",
        "percent": lambda share: f"{share:.1%}",
        "size": size,
        "metric": name_of,
        "shown": shown,
    }
    made.filters |= filters
    return made


def number(value: Any) -> str:
    """Format a number in few digits, a missing one as a dash."""
    if value is None or value != value:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3g}"


def duration(seconds: float) -> str:
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(parameters: float) -> str:
    """Format a number of parameters: 22.7 M."""
    for unit, least in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if parameters >= least:
            return f"{parameters / least:.3g} {unit}"
    return f"{parameters:.0f}"


def shown(value: Any) -> str:
    """Return a value as text without characters that would disturb the text around it."""
    if isinstance(value, float):
        text = f"{value:.4g}"
    elif isinstance(value, (list, tuple)):
        text = ", ".join(map(shown, value))
    elif isinstance(value, Mapping):
        text = ", ".join(f"{name}: {shown(part)}" for name, part in value.items())
    else:
        text = "–" if value is None else str(value)
    return _UNSEEN.sub("�", text)
