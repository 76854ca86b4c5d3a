"""Makes room in the trunk cache: deletes the least recently used folders."""

from __future__ import annotations

import math
import shutil
from collections.abc import Collection
from datetime import datetime
from pathlib import Path

from ftray.cluster.folder import existing
from ftray.errors import StorageError
from ftray.store.files.location import Location
from ftray.store.root import CACHE_MANIFEST, Root
from ftray.store.runs.folder import list_runs


def make_room(root: Root, needed: int, budget: float, keep: Collection[str]) -> list[str]:
    """Delete folders until `needed` more bytes fit into `budget` bytes and onto the disk; return
    the deleted names. Folders named in `keep` stay, and so do folders that a live run may be
    reading.

    Raises StorageError, and deletes nothing, where that does not make enough room.
    """
    parent = root.location / "cache" / "trunk"
    folders = [folder for folder in parent.children() if folder.is_dir()]
    sizes = {folder.name: folder.size() for folder in folders}
    short = max(sum(sizes.values()) + needed - budget, needed - _free(root.location))
    since = _oldest_living(root)
    going: list[Location] = []
    for folder in sorted(folders, key=_last_used):
        if short <= 0:
            break
        if folder.name not in keep and _last_used(folder) < since:
            going.append(folder)
            short -= sizes[folder.name]
    if short > 0:
        raise StorageError.of(
            "train.trunk_gb",
            f"{budget / 1e9:g}",
            f"the trunk cache needs {needed / 1e9:.2f} GB and there are {short / 1e9:.2f} too few",
            "raise it, free space on the disk, or set train.trunk_cache to off",
        )
    for folder in going:
        folder.delete(first=CACHE_MANIFEST)
    return [folder.name for folder in going]


def _last_used(folder: Location) -> float:
    """Return when the folder's key was last written, as every use does; 0 for a folder without a
    key."""
    (info,) = folder.infos([CACHE_MANIFEST])
    return (info.mtime_ns or 0) / 1e9


def _oldest_living(root: Root) -> float:
    """Return when the oldest live run began; infinity where no run is live."""
    living = [status for run in list_runs(root) if (status := run.status).may_live]
    begun = (datetime.fromisoformat(status.started).timestamp() for status in living)
    return min(begun, default=math.inf)


def _free(location: Location) -> float:
    """Return the free bytes on the disk of a local root; infinity for an object store."""
    if not location.is_local:
        return math.inf
    return shutil.disk_usage(existing(Path(location.path))).free
