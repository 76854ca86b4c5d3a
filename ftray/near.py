"""Guesses the word or path that a user mistyped."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

_ALIKE = 0.75
"""Share of common characters above which one word counts as a misspelling of another."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that `word` misspells; None where no known word is close."""
    by_letters = {name.casefold(): name for name in known}
    close = difflib.get_close_matches(word.casefold(), by_letters, n=1, cutoff=_ALIKE)
    return by_letters[close[0]] if close else None


def looks_local(path: str) -> bool:
    """Return whether `path` means a local file or folder, maybe mistyped, and no OWNER/NAME of the
    Hub."""
    if path.startswith((".", "~", "/")) or "\\" in path or path.count("/") > 1:
        return True
    owner, slash, _ = path.partition("/")
    return bool(slash) and (_exists(owner) or nearest_path(path) is not None)


def nearest_path(path: str) -> str | None:
    """Return the local file or folder that `path` misspells, written as `path` is. Replaces each
    missing part by its nearest neighbour; None where one part has no neighbour."""
    written = Path(path)
    found = Path(written.anchor) if written.is_absolute() else Path()
    try:
        for part in written.parts[1 if written.is_absolute() else 0 :]:
            if not (found / part).expanduser().exists():
                folder = found.expanduser()
                names = [child.name for child in folder.iterdir()] if folder.is_dir() else []
                close = nearest(part, (name for name in names if not name.startswith(".")))
                # An ending in common does not make two names of files alike.
                if close is None or nearest(Path(part).stem, [Path(close).stem]) is None:
                    return None
                part = close
            found /= part
    except (OSError, ValueError, RuntimeError):
        return None  # a name is too long or contains a NUL, or there is no home folder
    return str(found)


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def did_you_mean(name: str | None, otherwise: str) -> str:
    """Return the advice of a message: the likely name, or `otherwise` without one."""
    return f"Did you mean {name}?" if name is not None else otherwise
