"""Reads the rows of the sources that data.train, data.validation and data.test name: files, globs,
folders, URLs and the Hub."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TypeVar

from ftray.data.readers.batch import RawBatch
from ftray.data.readers.contents import with_contents
from ftray.data.readers.file_rows import file_batches
from ftray.data.readers.files import READERS, read_file, suffix
from ftray.data.readers.hub import is_hub_id, read_hub
from ftray.data.readers.rows import RawRow, Source, shown
from ftray.data.sequences import sequence_batches
from ftray.errors import StorageError
from ftray.near import did_you_mean, nearest_path
from ftray.spec.schema import DataSpec
from ftray.store.files.location import Location, locate
from ftray.store.files.pattern import expand
from ftray.tasks import DEFAULT_TASK, Task
from ftray.tasks.info import TaskInfo

T = TypeVar("T")


def source_of(
    url: str, role: str, spec: DataSpec, task: TaskInfo = DEFAULT_TASK, seed: int = 0
) -> Source:
    """Return the source that data.ROLE names."""
    return Source(
        f"data.{role}",
        url,
        spec.columns.of(task),
        spec.encoding,
        role,
        files=task.files,
        flags=spec.columns.flags,
        csv=spec.csv,
        sequences=task.sequences,
        shares=spec.last_out if role == "train" else {},
        seed=seed,
    )


def asked_columns(columns: Mapping[str, T], task: Task) -> dict[str, T]:
    """Return the entries of `columns` that prediction needs."""
    return {logical: name for logical, name in columns.items() if logical not in task.info.answers}


def rows_of(source: Source) -> Iterator[RawRow]:
    """Yield the raw rows of a source, in a fixed order. Raises DataError."""
    for batch in batches_of(source):
        yield from batch.each()


def batches_of(source: Source) -> Iterator[RawBatch]:
    """Yield the raw rows of a source in batches, in a fixed order; where they are events, a row for
    each user. Raises DataError."""
    if source.sequences is not None:
        yield from sequence_batches(batches_of(replace(source, sequences=None)), source)
        return
    if is_hub_id(source.url):
        yield from read_hub(source)
        return
    try:
        yield from _batches_of_files(source)
    except StorageError as error:
        fault = error.problems[0]
        raise source.error(fault.problem, fault.fix) from None
    except OSError as error:
        raise source.error(f"cannot be read: {error}", "check the path and your access") from None


def _batches_of_files(source: Source) -> Iterator[RawBatch]:
    matches = expand(source.url)
    if not matches:
        raise source.error("matches no file", "check the pattern and the folder it starts in")
    if len(matches) == 1 and matches[0].is_dir():
        yield from _batches_of_folder(matches[0], source)
        return
    for file in matches:
        if file.is_dir():
            raise source.error(f"{shown(file)} is a folder", "let the pattern match files only")
        if not file.is_file():
            raise source.error(f"no such file or folder: {file}", _neighbours(file))
    for are_rows, files in groupby(matches, partial(_is_row, source=source)):
        if are_rows:
            yield from file_batches([(file, None) for file in files], source)
        else:
            for file in files:
                yield from _batches_of_file(file, source)


def _is_row(file: Location, source: Source) -> bool:
    return bool(source.files) and suffix(file.name) not in READERS


def _batches_of_file(file: Location, source: Source) -> Iterator[RawBatch]:
    return with_contents(read_file(file, source), file.parent, source)


def _batches_of_folder(folder: Location, source: Source) -> Iterator[RawBatch]:
    """Yield the rows of a folder of data files, or of a folder with one sub-folder of texts or
    images for each label."""
    names = [name for name in _files(folder, source) if not _is_hidden(name)]
    inner = [name for name in names if "/" in name]
    data = [name for name in names if suffix(name) in READERS]
    name = shown(folder)
    if len({suffix(name) for name in data}) > 1:
        kinds = ", ".join(sorted({suffix(name) for name in data}))
        raise source.error(f"{name} has files of several formats ({kinds})", _glob(folder, data))
    if any("/" in name for name in data) and not source.files:
        raise source.error(f"{name} has data files in sub-folders", _glob(folder, data))
    if source.files and data:  # a table that names the other files
        inner = []
    elif source.files and "label" not in source.columns:
        inner = names
    if data and inner:
        raise source.error(f"{name} has both data files and sub-folders", _glob(folder, data))
    if not data and not inner:
        what = "images" if source.files else "texts"
        raise source.error(
            f"{name} has no data files ({', '.join(READERS)}) and no sub-folders of {what}",
            "name a file, or a folder with one sub-folder a label",
        )
    for path in data:
        yield from _batches_of_file(folder / path, source)
    # The label of a file is the first part of its path below the folder.
    yield from file_batches([(folder / name, name.partition("/")[0]) for name in inner], source)


def _files(folder: Location, source: Source) -> list[str]:
    """Return the paths of all files under `folder`, relative to it, sorted. Raises DataError where
    a link leads to a folder above the link: the search would find every file again and again."""
    if folder.is_local:
        for path, folders, _ in os.walk(folder.path, followlinks=True):
            for name in folders:
                link = Path(path, name)
                if link.is_symlink() and Path(path).resolve().is_relative_to(link.resolve()):
                    raise source.error(
                        f"{link} is a link to a folder that it lies in", "remove the link"
                    )
    return folder.files()


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "_")) for part in name.split("/"))


def _glob(folder: Location, data: list[str]) -> str:
    deep = "*/" if "/" in data[0] else ""
    return f"name the files with a pattern, for example {folder / f'{deep}*{suffix(data[0])}'}"


def _neighbours(file: Location) -> str:
    """Suggest a fix for a file that is missing."""
    if not file.is_local:
        return "check the URL"
    otherwise = "check the path; it starts where you are"
    if (close := nearest_path(file.path)) is None:
        return otherwise
    is_beside = Path(close).parent == Path(file.path).parent
    return did_you_mean(Path(close).name if is_beside else shown(locate(close)), otherwise)
