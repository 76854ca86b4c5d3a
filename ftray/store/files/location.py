"""Files in a local folder, in an object store, or inside an installed package.

A method that cannot read or write raises FileNotFoundError (or FileExistsError, NotADirectoryError,
IsADirectoryError, each for its case), else StorageFault. On a remote store the method first retries
faults that may pass by themselves: see `ftray.store.files.retry`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from ftray.errors import StorageError, without_passwords
from ftray.store.files import transfer
from ftray.store.files.retry import PATIENT, QUICK, fault, persist
from ftray.store.files.url import extended, quoted, shortened

R = TypeVar("R")

PACKAGE = "package://"


@dataclass(frozen=True)
class Location:
    """A path on a file system of pyarrow's. `url` is the form in which a user would write the path;
    patience: seconds for which a method retries a remote store that does not answer."""

    fs: pafs.FileSystem
    path: str
    url: str
    patience: float = field(default=QUICK, compare=False)

    def __reduce__(self) -> tuple[Callable[[str, float], Location], tuple[str, float]]:
        # The unpickling process opens the location anew, with the credentials known there.
        return locate, (self.url, self.patience)

    def __truediv__(self, name: str) -> Location:
        return replace(self, path=f"{self.path}/{name}", url=extended(self.url, name))

    def __str__(self) -> str:
        return without_passwords(self.url)

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name

    @property
    def parent(self) -> Location:
        return replace(self, path=self.path.rpartition("/")[0], url=shortened(self.url))

    def patient(self) -> Location:
        """Return the same location for a run, which bridges an outage of some minutes."""
        return replace(self, patience=PATIENT)

    @property
    def is_local(self) -> bool:
        return isinstance(self.fs, pafs.LocalFileSystem)

    def exists(self) -> bool:
        return self._type() != pafs.FileType.NotFound

    def is_file(self) -> bool:
        return self._type() == pafs.FileType.File

    def is_dir(self) -> bool:
        return self._type() == pafs.FileType.Directory

    def _type(self) -> pafs.FileType:
        return self.infos([""])[0].type

    def infos(self, names: list[str]) -> list[pafs.FileInfo]:
        """Return the file info of each path below this one, in their order; "" means this path."""
        paths = [f"{self.path}/{name}" if name else self.path for name in names]
        return self._do(lambda: self.fs.get_file_info(paths))

    def children(self) -> list[Location]:
        """List the entries of this folder, sorted by name; empty where there is no folder."""
        return sorted(
            (self / PurePosixPath(info.path).name for info in self.everything(deep=False)),
            key=lambda child: child.path,
        )

    def files(self) -> list[str]:
        """List the paths of all files under this folder, relative to it, sorted."""
        infos = self.everything()
        prefix = len(self.path) + 1
        return sorted(info.path[prefix:] for info in infos if info.type == pafs.FileType.File)

    def size(self) -> int:
        """Return the total bytes of the files under this folder."""
        return sum(info.size or 0 for info in self.everything())

    def everything(self, deep: bool = True) -> list[pafs.FileInfo]:
        """List the file infos in this folder and, with `deep`, in all folders below it."""
        selector = pafs.FileSelector(self.path, recursive=deep, allow_not_found=True)
        return self._do(lambda: self.fs.get_file_info(selector))

    def read_bytes(self) -> bytes:
        return self.buffer().to_pybytes()

    def buffer(self) -> pa.Buffer:
        """Read the content. A local file is memory-mapped, so that processes share its pages."""

        def read() -> pa.Buffer:
            if self.is_local:
                with pa.memory_map(self.path) as mapped:
                    return mapped.read_buffer()
            with self.fs.open_input_file(self.path) as stream:
                return stream.read_buffer()

        return self._do(read)

    def read_json(self) -> Any:
        return json.loads(self.read_bytes())

    def write_bytes(self, content: bytes | pa.Buffer) -> None:
        """Write the file whole or not at all: a reader never sees half of `content`."""
        if self.is_local:
            self._do(lambda: _replace(Path(self.path), content))
        else:
            self._do(lambda: transfer.put(self.fs, self.path, content))

    def write_text(self, content: str) -> None:
        self.write_bytes(content.encode())

    def write_json(self, content: Any) -> None:
        self.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def delete(self, first: str = "") -> None:
        """Remove this file or folder with its contents; do nothing where it does not exist.

        first: the folder's manifest, removed before the other files, as readers take a folder
        without its manifest as missing."""
        if first:
            (self / first).delete()

        def remove() -> None:
            kind = self.fs.get_file_info([self.path])[0].type
            if kind == pafs.FileType.Directory:
                self.fs.delete_dir(self.path)
            elif kind != pafs.FileType.NotFound:
                self.fs.delete_file(self.path)

        self._do(remove)

    def upload(self, folder: Path, last: str) -> None:
        """Copy a local folder here. The file `last`, the folder's manifest, is written last, as it
        makes the folder exist for readers."""
        names = [
            path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
        ]
        assert last in names, f"{last} is to be written last and is not in {folder}"
        self.upload_files({name: folder / name for name in sorted(names) if name != last})
        self.upload_files({last: folder / last})

    def upload_files(self, files: dict[str, Path]) -> None:
        """Copy local files to these names below this folder, to a remote store several at once."""
        if not self.is_local:
            transfer.upload(self.fs, self.path, files, self.url, self.patience)
            return
        for name, file in files.items():
            (self / name).write_bytes(Location(self.fs, str(file), str(file)).buffer())

    @contextmanager
    def as_local(self) -> Iterator[Path]:
        """Give this file or folder as a local path; a remote one is copied to a temporary
        folder."""
        if self.is_local:
            yield Path(self.path)
            return
        with tempfile.TemporaryDirectory(prefix="ftray-") as temporary:
            target = Path(temporary) / self.name
            self.download(target)
            yield target

    def download(self, target: Path) -> None:
        """Copy this remote file, or this folder with its contents, to a local path."""
        (info,) = self.infos([""])
        if info.type == pafs.FileType.NotFound:
            raise FileNotFoundError(f"no such file or folder: {self.url}")
        found = self.everything() if info.type == pafs.FileType.Directory else [info]
        files = {
            i.path: target / i.path[len(self.path) + 1 :]
            for i in found
            if i.type == pafs.FileType.File
        }
        for path in files:
            # A key of an object store may hold any text, also "..".
            if ".." in PurePosixPath(path[len(self.path) + 1 :]).parts:
                problem = f"has an object whose name leads out of the folder: {path}"
                raise StorageError.of(str(self), None, problem, "delete that object")
        target.parent.mkdir(parents=True, exist_ok=True)
        if info.type == pafs.FileType.Directory:
            target.mkdir(exist_ok=True)
        sizes = {i.path: i.size for i in found}
        transfer.download(self.fs, files, sizes, self.url, self.patience)

    def _do(self, action: Callable[[], R]) -> R:
        """Return what `action` returns. A retry may call an action on a remote store twice."""
        if not self.is_local:
            return persist(action, self.url, self.patience)
        try:
            return action()
        except OSError as error:
            raise fault(error, self.url) from None


def _replace(target: Path, content: bytes | pa.Buffer) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileNotFoundError):
            shutil.copymode(target, part)  # keep the permissions of a private file
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def locate(url: str, patience: float = QUICK) -> Location:
    """Open the location that `url` names: a local path, a pyarrow URL, or package://MODULE/PATH.

    Raises StorageError when the scheme, the package or the bucket's region is unknown.
    """
    if url.startswith(PACKAGE):
        path = str(_in_package(url))
        return Location(pafs.LocalFileSystem(), path, url)
    if "://" in url:
        return _remote(quoted(url.rstrip("/")), patience)
    path = str(Path(url).expanduser().absolute())
    return Location(pafs.LocalFileSystem(), path, path)


def _remote(url: str, patience: float) -> Location:
    try:
        # A process may open its client during an outage of the store.
        fs, path = persist(lambda: _open(url), url, patience)
    except (pa.ArrowException, OSError) as error:
        problem = f"cannot be opened: {error.strerror if isinstance(error, OSError) else error}"
        fix = "a folder, s3://, gs://, abfs:// or hdfs://"
        raise StorageError.of(url, None, problem, fix) from None
    path = path.rstrip("/")
    return Location(fs, path, path if url.startswith("file:") else url, patience)


def _open(url: str) -> tuple[pafs.FileSystem, str]:
    if not url.startswith("s3:") or "allow_delayed_open" in url:
        return pafs.FileSystem.from_uri(url)
    # With the option, pyarrow writes small files in one request, and a killed process leaves no
    # unfinished upload.
    mark = "&" if "?" in url else "?"
    return pafs.FileSystem.from_uri(f"{url}{mark}allow_delayed_open=true")


def _in_package(url: str) -> Path:
    module, _, inner = url.removeprefix(PACKAGE).partition("/")
    try:
        found = importlib.util.find_spec(module) if module else None
    except (ImportError, ValueError):
        found = None
    folders = list(found.submodule_search_locations or []) if found else []
    if not folders:
        problem = f"no Python package {module!r} is installed"
        raise StorageError.of(url, None, problem, f"install it: pip install {module}")
    return Path(folders[0], inner)
