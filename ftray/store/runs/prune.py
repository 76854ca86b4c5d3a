"""Removes folders of no use: those without a manifest, which killed processes left behind, and the
working folders of runs that have ended.

Pruning leaves a folder that a process may still be writing: one with a file younger than an hour,
or one of a live run.
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
"""Seconds since the last change after which a folder without its manifest is a leftover."""

_DIGEST = re.compile(r"[0-9a-f]{8,64}")
_PART = re.compile(r"\.[0-9a-f]{8,64}\.[0-9a-f]+\.part")  # being filled; renamed when complete


@dataclass(frozen=True)
class Leftover:
    """A folder of no use, the reason, and the folder's size in bytes."""

    folder: Location
    why: str
    size: int


def prune(root: Root, dry_run: bool = False) -> list[Leftover]:
    """Remove the leftovers under `root`; with `dry_run` only list them."""
    leftovers = []
    for folder, why in _candidates(root):
        if folder.is_dir() and _untouched(folder):
            leftovers.append(Leftover(folder, why, folder.size()))
            if not dry_run:
                folder.delete()
    return leftovers


def _candidates(root: Root) -> Iterator[tuple[Location, str]]:
    """Yield folders of no use and the reasons, except folders that a live run may be writing.

    Considers only names of ftray's layout: other files that a user put under the root stay.
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
        return  # any live run may be filling the cache
    for cache in (root.location / "cache" / "data", root.location / "cache" / "trunk"):
        for folder in cache.children():
            if _DIGEST.fullmatch(folder.name) and not (folder / CACHE_MANIFEST).is_file():
                yield folder, f"no {CACHE_MANIFEST}"
            elif _PART.fullmatch(folder.name):
                yield folder, "was being filled"


def _of_ended(run: RunFolder) -> Iterator[tuple[Location, str]]:
    """Yield the folders that served the run and that an ended run no longer needs."""
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
    """Return whether nothing in the folder changed for an hour. An empty folder in an object store
    has no time and counts as changed."""
    infos = [*folder.infos([""]), *folder.everything()]
    changes = [info.mtime_ns for info in infos if info.mtime_ns is not None]
    return bool(changes) and time.time() - max(changes) / 1e9 > AGE
