"""Removing what does not exist: folders under the storage root that lack their manifest.

They are what killed processes leave behind. A folder that something may still be writing is not
touched: one with a file younger than an hour, or one that belongs to a run that lives.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

from ftray.store.location import Location
from ftray.store.root import CACHE_MANIFEST, MODEL_MANIFEST, Root
from ftray.store.runs import RUN_ID, STATUS, list_runs

AGE = 3600.0
"""Seconds since the last change before a folder without its manifest is a leftover."""

_DIGEST = re.compile(r"[0-9a-f]{8,64}")
_PART = re.compile(r"\.[0-9a-f]{8,64}\.[0-9a-f]+\.part")  # one being filled: renamed when whole


@dataclass(frozen=True)
class Leftover:
    """A folder without its manifest, and its size in bytes."""

    folder: Location
    missing: str
    size: int


def prune(root: Root, dry_run: bool = False) -> list[Leftover]:
    """Remove the leftovers under `root`, or with `dry_run` only name them."""
    leftovers = []
    for folder, missing in _candidates(root):
        if folder.is_dir() and _untouched(folder):
            leftovers.append(Leftover(folder, missing, folder.size()))
            if not dry_run:
                folder.delete()
    return leftovers


def _candidates(root: Root) -> Iterator[tuple[Location, str]]:
    """Folders without their manifest, except those that a living run may be writing.

    Only names of the layout count: whatever else a user put under the root is left alone.
    """
    alive = {run.run_id for run in list_runs(root) if run.state == "running"}
    for parent in (*root.runs().children(), *root.models().children()):
        manifest = STATUS if parent.path.startswith(root.runs().path + "/") else MODEL_MANIFEST
        for folder in parent.children() if parent.is_dir() else []:
            mine = RUN_ID.fullmatch(folder.name) and folder.name not in alive
            if mine and not (folder / manifest).is_file():
                yield folder, manifest
    if alive:
        return  # any of them may be filling the cache
    for cache in (root.location / "cache" / "data", root.location / "cache" / "trunk"):
        for folder in cache.children():
            if _DIGEST.fullmatch(folder.name) and not (folder / CACHE_MANIFEST).is_file():
                yield folder, CACHE_MANIFEST
            elif _PART.fullmatch(folder.name):
                yield folder, "its final name"


def _untouched(folder: Location) -> bool:
    """Nothing in it changed for an hour. What tells no time, an empty folder in an object store,
    counts as changed."""
    infos = [*folder.infos([""]), *folder.everything()]
    changes = [info.mtime_ns for info in infos if info.mtime_ns is not None]
    return bool(changes) and time.time() - max(changes) / 1e9 > AGE
