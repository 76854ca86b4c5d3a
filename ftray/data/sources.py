"""Reads the rows of the sources that data.train, data.validation and data.test name: files, globs,
folders, URLs and the Hub."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal

import pyarrow as pa

from ftray.data.cleaning import clean as cleaning
from ftray.data.cleaning.report import CleaningReport
from ftray.data.readers import stream
from ftray.data.readers.contents import file_row, with_contents
from ftray.data.readers.files import READERS, read_file, suffix
from ftray.data.readers.hub import is_hub_id, read_hub
from ftray.data.readers.rows import RawRow, Source, shown
from ftray.data.readers.text import read_text
from ftray.errors import StorageError
from ftray.near import did_you_mean, nearest_path
from ftray.spec.schema import DataSpec
from ftray.spec.sections.delimited import DelimitedSpec
from ftray.store.files.location import Location, locate
from ftray.store.files.pattern import expand
from ftray.tasks import DEFAULT_TASK, Task
from ftray.tasks.info import TaskInfo

_READS_AT_ONCE = 16


def source_of(url: str, role: str, spec: DataSpec, task: TaskInfo = DEFAULT_TASK) -> Source:
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
    )


def read_source(
    source: str,
    columns: Mapping[str, str],
    task: Task,
    encoding: str = "utf-8",
    on_bad_row: Literal["fail", "skip"] = "fail",
    labels: Collection[str] | None = None,
    key: str = "--data",
    csv: DelimitedSpec | None = None,
    flags: Mapping[str, tuple[str, ...]] | None = None,
) -> tuple[pa.Table, CleaningReport, tuple[cleaning.Dropped, ...]]:
    """Return the clean rows of one source that is not split, with the task's columns and `where`
    (FILE:LINE); the report; the rows left out.

    With `labels`, a row with any other label is faulty. `key` is the setting that errors name.
    Raises DataError as `read_dataset` does.
    """
    asked = Source(
        key,
        source,
        columns,
        encoding,
        "test",
        files=task.info.files,
        flags=flags or {},
        csv=csv or DelimitedSpec(),
    )
    part = cleaning.clean("data", asked, rows_of(asked), task)
    cleaning.drop_twins(part, task)
    if labels is not None:
        cleaning.drop_unknown(part, task, labels)
    if on_bad_row == "fail":
        cleaning.refuse_faults([part])
    cleaning.require_rows(part)
    table = cleaning.table(part.kept, task.columns)
    table = table.append_column("where", cleaning.places(part.kept))
    counts = cleaning.label_counts(part.kept, task)
    report = CleaningReport({part.name: part.count()}, {part.name: counts})
    return table, report, tuple(part.dropped)


def asked_columns(columns: Mapping[str, str], task: Task) -> dict[str, str]:
    """Return the entries of `columns` that prediction needs."""
    return {logical: name for logical, name in columns.items() if logical not in task.info.answers}


def rows_of(source: Source) -> Iterator[RawRow]:
    """Yield the raw rows of a source, in a fixed order. Raises DataError."""
    if is_hub_id(source.url):
        yield from read_hub(source)
        return
    try:
        yield from _rows_of_files(source)
    except StorageError as error:
        fault = error.problems[0]
        raise source.error(fault.problem, fault.fix) from None
    except OSError as error:
        raise source.error(f"cannot be read: {error}", "check the path and your access") from None


def _rows_of_files(source: Source) -> Iterator[RawRow]:
    matches = expand(source.url)
    if not matches:
        raise source.error("matches no file", "check the pattern and the folder it starts in")
    if len(matches) == 1 and matches[0].is_dir():
        yield from _rows_of_folder(matches[0], source)
        return
    for file in matches:
        if file.is_dir():
            raise source.error(f"{shown(file)} is a folder", "let the pattern match files only")
        if not file.is_file():
            raise source.error(f"no such file or folder: {file}", _neighbours(file))
        yield from _rows_of_file(file, source)


def _rows_of_file(file: Location, source: Source) -> Iterator[RawRow]:
    if source.files and suffix(file.name) not in READERS:
        yield file_row(file.read_bytes(), None, file, source)
    else:
        yield from with_contents(read_file(file, source), file.parent, source)


def _rows_of_folder(folder: Location, source: Source) -> Iterator[RawRow]:
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
        yield from _rows_of_file(folder / path, source)
    yield from _read_labelled(folder, inner, source)


def _read_labelled(folder: Location, names: list[str], source: Source) -> Iterator[RawRow]:
    """Yield one row for each file; its label is the first part of its path below `folder`."""
    files = [folder / name for name in names]
    # Read files in parallel: one by one, many small files of an object store would take minutes.
    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
        contents = pool.map(partial(stream.read_bytes, source=source), files)
        for name, file, raw in zip(names, files, contents, strict=True):
            read = file_row if source.files else read_text
            yield read(raw, name.partition("/")[0], file, source)


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
