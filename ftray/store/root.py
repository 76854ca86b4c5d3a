"""The storage root: one folder or URL under which everything that ftray keeps lies."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from pathlib import Path

from ftray.errors import StorageError
from ftray.store.location import Location, locate
from ftray.store.retry import is_transient, reason

DEFAULT = "./ftray-data"

# Written last: a folder of the model or cache kind without it does not exist.
MODEL_MANIFEST = "ftray.json"
CACHE_MANIFEST = "manifest.json"

# Ray unpacks a job's working directory below a folder of this name and deletes it afterwards.
_JOB_FOLDER = "/runtime_resources/working_dir_files/"


class Root:
    """Where runs, models and caches lie, as the files section of the design lays them out."""

    def __init__(self, location: Location) -> None:
        self.location = location

    def __str__(self) -> str:
        return str(self.location)

    def runs(self, name: str = "") -> Location:
        return _below(self.location / "runs", name)

    def models(self, name: str = "") -> Location:
        return _below(self.location / "models", name)

    def routes(self, name: str) -> Location:
        """The file that says where the aliases of a model lead."""
        return self.location / "routes" / f"{name}.json"

    def data_cache(self, digest: str) -> Location:
        return self.location / "cache" / "data" / digest

    def trunk_cache(self, digest: str) -> Location:
        return self.location / "cache" / "trunk" / digest

    @property
    def registry_database(self) -> Location:
        return self.location / "registry.db"

    def check_writable(self) -> None:
        """Raises StorageError when nothing can be written here. Leaves nothing behind."""
        existed = self._exists()
        self.probe()
        if not existed:
            self._remove_empty()

    def patient(self) -> Root:
        """The same for a run, which bridges an outage of some minutes."""
        return Root(self.location.patient())

    def probe(self) -> None:
        """Write and delete a small file. Raises StorageError."""
        file = self.location / f".probe-{uuid.uuid4().hex[:8]}"
        try:
            file.write_bytes(b"ftray")
            file.delete()
        except OSError as error:
            raise self._unusable("written", error) from None

    def _exists(self) -> bool:
        try:
            return self.location.exists()
        except OSError as error:
            raise self._unusable("read", error) from None

    def _unusable(self, verb: str, error: OSError) -> StorageError:
        problem = f"cannot be {verb}: {reason(error)}"
        fix = "name a folder or URL that you may write to"
        if is_transient(error):
            fix = "see that the storage can be reached"
        return StorageError.of("storage", str(self), problem, fix)

    def _remove_empty(self) -> None:
        """Remove the folder that `probe` made, unless another process has begun to use it."""
        if self.location.is_local:
            with suppress(OSError):
                Path(self.location.path).rmdir()
        elif not self.location.children():
            self.location.delete()


def open_root(url: str | None) -> Root:
    """The root at `url`, else at $FTRAY_STORAGE, else ./ftray-data.

    Inside a Ray job the working directory is a temporary copy, so a relative folder is taken
    relative to the home folder there.
    """
    chosen = url or os.environ.get("FTRAY_STORAGE") or DEFAULT
    if "://" not in chosen and not Path(chosen).expanduser().is_absolute():
        in_job = _JOB_FOLDER in f"{Path.cwd()}/"
        chosen = str((Path.home() if in_job else Path.cwd()) / chosen)
    return Root(locate(os.path.normpath(chosen) if "://" not in chosen else chosen))


def _below(location: Location, name: str) -> Location:
    return location / name if name else location
