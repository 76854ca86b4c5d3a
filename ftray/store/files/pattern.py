"""Expands a path or URL with the wildcards * ? [ ] and ** to the files that it names."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

import pyarrow.fs as pafs

from ftray.store.files.location import PACKAGE, Location, locate

_WILDCARDS = "*?["
_URL_CHARACTERS = "%/:@!$&'()*+,;=~"
"""Characters of a URL that stay unquoted; the percent sign as the rest may be quoted already."""


class _Part(NamedTuple):
    """One name in a path."""

    name: str
    is_pattern: bool


def expand(url: str) -> list[Location]:
    """List the files and folders that `url` names, sorted by path.

    A part with wildcard characters means the file or folder of exactly that name where one exists,
    and is a pattern only otherwise. `**` stands for any number of folders, or at the end for all
    files below. As in a shell, a wildcard leaves out hidden names. A URL without wildcards is
    returned as it is, whether or not it exists. Raises StorageError as `locate` does.
    """
    if "://" not in url or url.startswith(PACKAGE):
        start, parts = _local(url)
    else:
        start, parts = _remote(url)
    if not parts:
        return [start]
    # Several expansions of `**` may lead to the same file.
    found = {match.path: match for match in _matches(start, parts)}
    return [found[path] for path in sorted(found)]


def _local(url: str) -> tuple[Location, list[_Part]]:
    """Split a local path into the longest folder without wildcards and the parts below it."""
    path = Path(locate(url).path)
    first = next((i for i, name in enumerate(path.parts) if _is_pattern(name)), None)
    if first is None or path.exists():
        return locate(url), []
    parts = [_Part(name, _is_pattern(name)) for name in path.parts[first:]]
    return locate(str(Path(*path.parts[:first]))), parts


def _remote(url: str) -> tuple[Location, list[_Part]]:
    # A question mark starts the options of a URL: s3://bucket/*.csv?region=...
    base, mark, options = url.partition("?")
    names = base.split("/")
    # The first three names are no patterns: the scheme, the empty name after it, and the host.
    first = next((i for i, name in enumerate(names) if i > 2 and _is_pattern(name)), len(names))
    start = locate(quote("/".join(names[:first]), safe=_URL_CHARACTERS) + mark + options)
    return start, [_Part(unquote(name), _is_pattern(name)) for name in names[first:] if name]


def _is_pattern(name: str) -> bool:
    return any(character in name for character in _WILDCARDS)


def _matches(folder: Location, parts: Sequence[_Part]) -> Iterator[Location]:
    (name, is_pattern), *rest = parts
    child = folder / name
    if not is_pattern or child.exists():
        if rest:
            yield from _matches(child, rest)
        elif child.exists():
            yield child
    elif name == "**":
        for inner in _folders(folder, ()):
            if rest:
                yield from _matches(inner, rest)
            else:
                yield from (file for file, is_folder in _named(inner, "*") if not is_folder)
    else:
        for found, is_folder in _named(folder, name):
            if not rest:
                yield found
            elif is_folder:
                yield from _matches(found, rest)


def _named(folder: Location, pattern: str) -> Iterator[tuple[Location, bool]]:
    """Yield the children of `folder` whose names match a pattern, each with whether it is a
    folder."""
    for child, is_folder in _children(folder):
        shows = pattern.startswith(".") or not child.name.startswith(".")
        if shows and fnmatch.fnmatchcase(child.name, pattern):
            yield child, is_folder


def _folders(folder: Location, above: tuple[str, ...]) -> Iterator[Location]:
    """Yield `folder` and all folders below it, without hidden ones and links that lead back up."""
    real = os.path.realpath(folder.path) if folder.is_local else folder.path
    if real in above:
        return
    yield folder
    for child, is_folder in _named(folder, "*"):
        if is_folder:
            yield from _folders(child, (*above, real))


def _children(folder: Location) -> Iterator[tuple[Location, bool]]:
    """Yield the entries of a folder, each with whether it is a folder."""
    for info in folder.everything(deep=False):
        if info.type != pafs.FileType.NotFound:
            yield folder / info.base_name, info.type == pafs.FileType.Directory
