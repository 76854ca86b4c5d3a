"""Writes notes about labels that are spelled in several ways."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ftray.tasks.labels import label_name

_GROUPS_SHOWN, _NAMES_SHOWN, _LENGTH = 5, 8, 40


def spelling_notes(raw: Iterable[tuple[Any, int]], counts: Mapping[str, int]) -> Iterator[str]:
    """Yield notes about labels of a source that are written in several ways, and about labels that
    differ by case or width only.

    raw: each spelling, and its rows; counts: label -> rows
    """
    written: dict[str, Counter[str]] = {}
    for value, rows in raw:
        written.setdefault(label_name(value), Counter())[_shown(value)] += rows
    several = [
        f"{_shown(name)} is written {', '.join(_rows(found))}"
        for name, found in written.items()
        if len(found) > 1
    ]
    if several:
        yield f"labels written in several ways are read as one: {_joined(several)}"
    alike = [
        ", ".join(_rows({_shown(name): counts[name] for name in group}))
        for group in _alike(counts)
        if len(group) > 1
    ]
    if alike:
        yield f"labels that differ by case or width only are not read as one: {_joined(alike)}"


def nearest(label: str, known: Collection[str]) -> str | None:
    """Return the known label that differs from `label` by case or width only."""
    key = _folded(label)
    return next((name for name in known if _folded(name) == key), None)


def named(labels: Collection[str]) -> str:
    """List the first of `labels`, for a message."""
    shown = ", ".join(_cut(label) for label in list(labels)[:_NAMES_SHOWN])
    return shown + (", ..." if len(labels) > _NAMES_SHOWN else "")


def counted(counts: Mapping[str, int]) -> str:
    """List the most frequent labels in `counts` (label -> rows), for a message."""
    shown = ", ".join(_rows({_shown(name): rows for name, rows in counts.items()})[:_NAMES_SHOWN])
    return shown + (", ..." if len(counts) > _NAMES_SHOWN else "")


def _alike(counts: Iterable[str]) -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    for name in counts:
        groups.setdefault(_folded(name), []).append(name)
    return list(groups.values())


def _folded(label: str) -> str:
    return unicodedata.normalize("NFKC", label).casefold()


def _rows(counts: Mapping[str, int]) -> list[str]:
    order = sorted(counts, key=lambda name: -counts[name])
    return [f"{name} ({counts[name]:,} row{'s'[: counts[name] != 1]})" for name in order]


def _shown(value: Any) -> str:
    if not isinstance(value, str):
        return str(value)
    # Escape characters that a reader cannot tell apart: repr escapes a zero-width space, ascii a
    # combining accent, too.
    is_composed = unicodedata.is_normalized("NFC", value)
    return repr(_cut(value)) if is_composed else ascii(_cut(value))


def _cut(text: str) -> str:
    return text if len(text) <= _LENGTH else text[: _LENGTH - 1] + "…"


def _joined(groups: Sequence[str]) -> str:
    more = f"; and {len(groups) - _GROUPS_SHOWN:,} more" if len(groups) > _GROUPS_SHOWN else ""
    return "; ".join(groups[:_GROUPS_SHOWN]) + more
