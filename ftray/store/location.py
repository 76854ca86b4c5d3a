"""Files wherever they lie: a local folder, an object store, or inside an installed package."""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import pyarrow.fs as pafs
from pyarrow import ArrowException

from ftray.errors import StorageError

PACKAGE = "package://"


@dataclass(frozen=True)
class Location:
    """A path on a file system that pyarrow knows. `url` is what a user would write for it."""

    fs: pafs.FileSystem
    path: str
    url: str

    def __reduce__(self) -> tuple[Callable[[str], Location], tuple[str]]:
        # Another process opens it anew, with what that one knows of credentials.
        return locate, (self.url,)

    def __truediv__(self, name: str) -> Location:
        # A URL's options (s3://bucket/prefix?region=...) stay at its end.
        base, mark, options = self.url.partition("?")
        return Location(self.fs, f"{self.path}/{name}", f"{base}/{name}{mark}{options}")

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name

    @property
    def parent(self) -> Location:
        base, mark, options = self.url.partition("?")
        return Location(
            self.fs, self.path.rpartition("/")[0], base.rpartition("/")[0] + mark + options
        )

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
        return self.fs.get_file_info([self.path])[0].type

    def children(self) -> list[Location]:
        """What lies directly in this folder, by name; nothing where there is no folder."""
        return sorted(
            (self / PurePosixPath(info.path).name for info in self._select(recursive=False)),
            key=lambda child: child.path,
        )

    def files(self) -> list[str]:
        """Paths of all files under this folder, relative to it, sorted."""
        infos = self._select(recursive=True)
        prefix = len(self.path) + 1
        return sorted(info.path[prefix:] for info in infos if info.type == pafs.FileType.File)

    def size(self) -> int:
        """Bytes under this folder."""
        return sum(info.size or 0 for info in self._select(recursive=True))

    def _select(self, recursive: bool) -> list[pafs.FileInfo]:
        selector = pafs.FileSelector(self.path, recursive=recursive, allow_not_found=True)
        return self.fs.get_file_info(selector)

    def read_bytes(self) -> bytes:
        with self.fs.open_input_stream(self.path) as stream:
            return stream.read()

    def read_json(self) -> Any:
        return json.loads(self.read_bytes())

    def write_bytes(self, content: bytes) -> None:
        """Write whole or not at all: a reader never sees half of `content`."""
        if not self.is_local:
            with self.fs.open_output_stream(self.path) as stream:
                stream.write(content)
            return
        target = Path(self.path)
        part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
        try:
            with _create(part) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)

    def write_text(self, content: str) -> None:
        self.write_bytes(content.encode())

    def write_json(self, content: Any) -> None:
        self.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def delete(self) -> None:
        """Remove this file or folder with all that is in it."""
        if self.is_dir():
            self.fs.delete_dir(self.path)
        elif self.exists():
            self.fs.delete_file(self.path)

    def upload(self, folder: Path, last: str) -> None:
        """Copy a local folder here, the file `last` after all others: it makes the folder exist."""
        names = [
            path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
        ]
        assert last in names, f"{last} is to be written last and is not in {folder}"
        names.sort(key=lambda name: (name == last, name))
        for name in names:
            (self / name).write_bytes((folder / name).read_bytes())

    @contextmanager
    def as_local(self) -> Iterator[Path]:
        """This file or folder as a local path; a remote one is copied to a temporary folder."""
        if self.is_local:
            yield Path(self.path)
            return
        with tempfile.TemporaryDirectory(prefix="ftray-") as temporary:
            target = Path(temporary) / self.name
            pafs.copy_files(self.path, str(target), source_filesystem=self.fs)
            yield target


def _create(path: Path) -> BinaryIO:
    """A new file, its folder made where there is none: also while another process, which only
    looked whether one can be made, removes it again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return path.open("wb")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("wb")


def locate(url: str) -> Location:
    """The location that `url` names: a local path, a pyarrow URL, or package://MODULE/PATH.

    Raises StorageError when the scheme, the package or the bucket's region is unknown.
    """
    if url.startswith(PACKAGE):
        path = str(_in_package(url))
        return Location(pafs.LocalFileSystem(), path, url)
    if "://" in url:
        try:
            fs, path = pafs.FileSystem.from_uri(url.rstrip("/"))
        except (ArrowException, OSError) as error:
            raise StorageError.of(
                url,
                None,
                f"cannot be opened: {error}",
                "a folder, s3://, gs://, abfs:// or hdfs://",
            ) from None
        return Location(fs, path.rstrip("/"), path if url.startswith("file:") else url.rstrip("/"))
    path = str(Path(url).expanduser().absolute())
    return Location(pafs.LocalFileSystem(), path, path)


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
