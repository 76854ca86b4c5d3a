"""The storage root: one folder or URL that holds everything that ftray keeps."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from ftray.cluster.folder import existing
from ftray.errors import StorageError
from ftray.store.files.location import Location, locate
from ftray.store.files.retry import is_transient, reason

DEFAULT = "./ftray-data"

# Written last: readers take a model folder or a cache folder without its manifest as missing.
MODEL_MANIFEST = "ftray.json"
CACHE_MANIFEST = "manifest.json"

# Ray unpacks a job's working directory below a folder of this name and deletes it afterwards.
_JOB_FOLDER = "/runtime_resources/working_dir_files/"


class Root:
    """The places of runs, models and caches, laid out as in the files section of the design."""

    def __init__(self, location: Location) -> None:
        self.location = location

    def __str__(self) -> str:
        return str(self.location)

    def runs(self, name: str = "") -> Location:
        return _below(self.location / "runs", name)

    def models(self, name: str = "") -> Location:
        return _below(self.location / "models", name)

    def routes(self, name: str) -> Location:
        """Return the folder with the route files of a model, one file an alias."""
        return self.location / "routes" / name

    def data_cache(self, digest: str) -> Location:
        return self.location / "cache" / "data" / digest

    def trunk_cache(self, digest: str) -> Location:
        return self.location / "cache" / "trunk" / digest

    @property
    def registry_database(self) -> Location:
        return self.location / "registry.db"

    def check_writable(self) -> None:
        """Raise StorageError when this process cannot write here.

        Makes no folder: for a local root that does not exist yet, tries the nearest existing folder
        above it. (An object store may keep an empty folder.)
        """
        folder = self.location
        if folder.is_local:
            folder = locate(str(existing(Path(folder.path))))
        self._try_to_write(folder)

    def patient(self) -> Root:
        """Return the same root for a run, which bridges an outage of some minutes."""
        return Root(self.location.patient())

    def probe(self) -> None:
        """Write and delete a small file. Raises StorageError."""
        self._try_to_write(self.location)

    def _try_to_write(self, folder: Location) -> None:
        file = folder / f".probe-{uuid.uuid4().hex[:8]}"
        try:
            file.write_bytes(b"ftray")
            file.delete()
        except OSError as error:
            raise self._unusable(error) from None

    def _unusable(self, error: OSError) -> StorageError:
        problem = f"cannot be written: {reason(error)}"
        fix = "name a folder or URL that you may write to"
        if is_transient(error):
            fix = "see that the storage can be reached"
        return StorageError.of("storage", str(self), problem, fix)


def open_root(url: str | None) -> Root:
    """Open the root at `url`, else at $FTRAY_STORAGE, else ./ftray-data.

    Inside a Ray job the working directory is a temporary copy, so there a relative folder is taken
    relative to the home folder.
    """
    chosen = url or os.environ.get("FTRAY_STORAGE") or DEFAULT
    if "://" not in chosen and not Path(chosen).expanduser().is_absolute():
        in_job = _JOB_FOLDER in f"{Path.cwd()}/"
        chosen = str((Path.home() if in_job else Path.cwd()) / chosen)
    return Root(locate(os.path.normpath(chosen) if "://" not in chosen else chosen))


def _below(location: Location, name: str) -> Location:
    return location / name if name else location
