"""Removing what is of no use any more: folders without their manifest, which killed processes left
behind, and what served runs that have ended.

A folder that something may still be writing is not touched: one with a file younger than an hour,
or one that belongs to a run that lives.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

from ftray.store.files.location import Location
from ftray.store.root import CACHE_MANIFEST, MODEL_MANIFEST, Root
from ftray.store.runs.folder import CHECKPOINTS, RUN_ID, WORKING, RunFolder, list_runs
from ftray.store.runs.status import STATUS

AGE = 3600.0
"""Seconds since the last change before a folder without its manifest is a leftover."""

_DIGEST = re.compile(r"[0-9a-f]{8,64}")
_PART = re.compile(r"\.[0-9a-f]{8,64}\.[0-9a-f]+\.part")  # one being filled: renamed when whole


@dataclass(frozen=True)
class Leftover:
    """A folder that is of no use any more, why, and its size in bytes."""

    folder: Location
    why: str
    size: int


def prune(root: Root, dry_run: bool = False) -> list[Leftover]:
    """Remove the leftovers under `root`, or with `dry_run` only name them."""
    leftovers = []
    for folder, why in _candidates(root):
        if folder.is_dir() and _untouched(folder):
            leftovers.append(Leftover(folder, why, folder.size()))
            if not dry_run:
                folder.delete()
    return leftovers


def _candidates(root: Root) -> Iterator[tuple[Location, str]]:
    """Folders of no use, except those that a living run may be writing, and why they are.

    Only names of the layout count: whatever else a user put under the root is left alone.
    """
    runs = list_runs(root)
    alive = {run.run_id for run in runs if run.status.may_live}
    for parent in (*root.runs().children(), *root.models().children()):
        manifest = STATUS if parent.path.startswith(root.runs().path + "/") else MODEL_MANIFEST
        for folder in parent.children() if parent.is_dir() else []:
            mine = RUN_ID.fullmatch(folder.name) and folder.name not in alive
            if mine and not (folder / manifest).is_file():
                yield folder, f"no {manifest}"
    for run in runs:
        if run.run_id not in alive:
            yield from _of_ended(run)
    if alive:
        return  # any of them may be filling the cache
    for cache in (root.location / "cache" / "data", root.location / "cache" / "trunk"):
        for folder in cache.children():
            if _DIGEST.fullmatch(folder.name) and not (folder / CACHE_MANIFEST).is_file():
                yield folder, f"no {CACHE_MANIFEST}"
            elif _PART.fullmatch(folder.name):
                yield folder, "was being filled"


def _of_ended(run: RunFolder) -> Iterator[tuple[Location, str]]:
    """Folders that served the run and do not any more."""
    done = run.status.state == "done"
    for name in WORKING:
        folder = run.location / name
        if done or not folder.files():
            yield folder, "its run is done" if done else "empty"
    if done and not _keeps(run):
        yield run.location / CHECKPOINTS, "its run is done"


def _keeps(run: RunFolder) -> bool:
    checkpoint = (run.spec_tree().get("train") or {}).get("checkpoint") or {}
    return bool(checkpoint.get("keep_after"))


def _untouched(folder: Location) -> bool:
    """Nothing in it changed for an hour. What tells no time, an empty folder in an object store,
    counts as changed."""
    infos = [*folder.infos([""]), *folder.everything()]
    changes = [info.mtime_ns for info in infos if info.mtime_ns is not None]
    return bool(changes) and time.time() - max(changes) / 1e9 > AGE
