"""Room for the trunk cache: the folders that were not used for longest make it."""

from __future__ import annotations

import math
import shutil
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path

from ftray.errors import StorageError
from ftray.store.files.location import Location
from ftray.store.root import CACHE_MANIFEST, Root
from ftray.store.runs.folder import list_runs


def make_room(root: Root, needed: int, budget: float, keep: Collection[str]) -> list[str]:
    """Delete folders until `needed` more bytes fit into `budget` bytes and onto the disk; their
    names. The folders named in `keep` stay, and so does what a living run may be reading.

    Raises StorageError where that does not make enough room; nothing is deleted then.
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
        # The manifest goes first: a folder without it does not exist.
        (folder / CACHE_MANIFEST).delete()
        folder.delete()
    return [folder.name for folder in going]


def _last_used(folder: Location) -> float:
    """When its key was last written, which every use does; 0 where it has none."""
    (info,) = folder.infos([CACHE_MANIFEST])
    return (info.mtime_ns or 0) / 1e9


def _oldest_living(root: Root) -> float:
    """When the oldest run began that still runs; never where none does."""
    begun = [run.run_id for run in list_runs(root) if run.status.may_live]
    times = [datetime.strptime(name[:15], "%Y%m%d-%H%M%S").replace(tzinfo=UTC) for name in begun]
    return min((time.timestamp() for time in times), default=math.inf)


def _free(location: Location) -> float:
    """Bytes free on the disk of a local root; no end of them in an object store."""
    if not location.is_local:
        return math.inf
    path = Path(location.path)
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
