"""From clean rows to token ids in the cache: made once by Ray Data, found again by later runs.

A split is cut into shards of `SHARD_ROWS` rows. Many are encoded by Ray tasks, each of which writes
its shard itself: rows pass through the driver once, and their order is that of the file names. On a
local root all is written beside the final folder and renamed into place; on an object store the
manifest is written last. Either way two runs that encode the same rows at once both end with the
same folder.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ftray import digest
from ftray.cluster.connection import is_this_machine
from ftray.cluster.node import naming_this_node
from ftray.data.dataset import Dataset
from ftray.data.encoding.encoded import (
    QUARANTINE,
    REPORT,
    EncodedDataset,
    EncodedSplit,
    Shard,
    check_shards,
    open_encoded,
)
from ftray.data.encoding.lengths import Lengths
from ftray.data.encoding.ray_data_output import quiet_ray_data
from ftray.data.encoding.tokenless import without_tokenless
from ftray.errors import FtrayError, RunFailed, StorageError, StorageFault, find
from ftray.models.pretrained import find_pretrained, load_tokenizer
from ftray.spec.schema import ModelSpec, Spec
from ftray.store.files import checksum
from ftray.store.files.location import Location
from ftray.store.root import CACHE_MANIFEST, Root
from ftray.tasks import get_task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["EncodedDataset", "EncodedSplit", "encode_dataset", "open_encoded"]

log = logging.getLogger(__name__)

ENCODING_VERSION = 3
"""Part of the digest: raise it when shards change in what they hold."""
SHARD_ROWS = 4096
Here = Callable[[Callable[[pa.Table], pa.Table], Sequence[pa.Table]], list[pa.Table]]
_ROWS_HERE = 4 * SHARD_ROWS
"""Which the driver encodes itself where it is the cluster: to start a process takes longer."""


def encode_dataset(
    dataset: Dataset,
    tokenizer_path: str,
    tokenizer_digest: str,
    spec: Spec,
    root: Root,
    here: Here | None = None,
) -> EncodedDataset:
    """The encoded rows of `dataset` under the storage root, made by Ray Data unless they are there.

    `here` encodes blocks on this machine, where they are few and it is all the cluster; else this
    process does.
    `tokenizer_path` is a local folder; on a node that lacks it the spec's model is fetched. Raises
    ModelError for a tokenizer that does not load, DataError for rows that it makes no token of
    where bad rows are not skipped, and StorageError for a root that cannot be written or that the
    cluster's nodes do not share.
    """
    identity = {
        "encoding_version": ENCODING_VERSION,
        "data": dataset.digest,
        "tokenizer": tokenizer_digest,
        "task": spec.task,
        "max_length": spec.data.max_length,
    }
    name = digest.of_json(identity)
    folder = root.data_cache(name)
    try:
        encoded = _open(folder)
        if encoded is None:
            with _work_folder(root, name) as work:
                written = _write_shards(dataset, work, tokenizer_path, spec, here or _here)
                dataset = without_tokenless(dataset, written.tokenless, spec)
                _write_cleaning(work, dataset)
                _write_manifest(work, {**identity, "digest": name}, dataset.labels, written)
            encoded = open_encoded(folder)
        else:
            dataset = without_tokenless(dataset, encoded.tokenless, spec)
            # The same clean rows may come from other files: the folder tells of the latest reading.
            _write_cleaning(folder, dataset)
    except OSError as error:
        raise _unwritable(folder, error) from None
    return replace(encoded, report=dataset.report.to_json())


@contextmanager
def _work_folder(root: Root, name: str) -> Iterator[Location]:
    """Where to write what is to be the folder `name` of the cache, and then put it in place."""
    folder = root.data_cache(name)
    if not folder.is_local:
        # An object store writes files whole, and the same rows give the same files.
        yield folder
        return
    work = root.data_cache(f".{name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield work
        _publish(Path(work.path), Path(folder.path))
    finally:
        work.delete()


def _publish(work: Path, folder: Path) -> None:
    """Rename `work` to `folder`. Into a folder that is there, torn or written by a quicker process,
    its files go one by one: that mends the one and leaves the other as it is."""
    try:
        work.rename(folder)
    except OSError:
        for file in sorted(work.iterdir(), key=lambda file: file.name == CACHE_MANIFEST):
            file.replace(folder / file.name)


def _open(folder: Location) -> EncodedDataset | None:
    """The data set in `folder`; None where there is none, or a damaged one."""
    if not (folder / CACHE_MANIFEST).is_file():
        return None
    try:
        encoded = open_encoded(folder)
        # To read all of a remote one here costs more than to notice it where it is used.
        damage = encoded.damage() if folder.is_local else ""
    except StorageFault:
        raise
    except StorageError as error:
        damage = error.problems[0].problem
    if damage:
        log.warning("the encoded data in %s is damaged and made anew: %s", folder, damage)
        return None
    return encoded


def _unwritable(folder: Location, error: OSError) -> FtrayError:
    if isinstance(error, StorageFault):
        return error
    fix = "free space there, or name a root that you may write to"
    return StorageError.of("storage", str(folder), f"cannot be written: {error}", fix)


@dataclass(frozen=True)
class _Written:
    """Of each split its shards in order, how long its rows are, and which give no token."""

    shards: dict[str, list[Shard]]
    lengths: dict[str, Lengths]
    tokenless: dict[str, list[int]]


def _write_shards(
    dataset: Dataset, work: Location, tokenizer_path: str, spec: Spec, here: Here
) -> _Written:
    """Encode and write all splits."""
    blocks = [block for split in dataset.splits for block in _blocks(dataset, split)]
    write = partial(
        _write_shard,
        task=spec.task,
        labels=dataset.labels,
        max_length=spec.data.max_length,
        tokenizer_path=tokenizer_path,
        model=spec.model,
        folder=work,
    )
    count = sum(block.num_rows for block in blocks)
    if count <= _ROWS_HERE and is_this_machine():
        rows = [row for written in here(write, blocks) for row in written.to_pylist()]
    else:
        # To start a process for each small split takes longer than to encode them all in one.
        rows = _write_everywhere(write, blocks, processes=1 if count <= SHARD_ROWS else None)
    rows.sort(key=lambda row: row["file"])
    tokens = {row["file"]: row.pop("tokens") for row in rows}
    empty = {row["file"]: row.pop("empty") for row in rows}
    shards = [shard for row in rows if (shard := Shard(**row)).rows]
    encoded = {file: len(tokens[file]) + len(empty[file]) for file in tokens}
    _check_written(work, shards, encoded, blocks)
    written = _Written({}, {}, {})
    for split in dataset.splits:
        files = [file for file in tokens if file.rpartition("-")[0] == split]
        listed = [shard for shard in shards if shard.file in files]
        lengths = np.concatenate([tokens[file] for file in files])
        count = sum(shard.rows for shard in listed)
        written.shards[split] = listed
        written.lengths[split] = Lengths.of(lengths, count, spec.data.max_length)
        written.tokenless[split] = [
            number * SHARD_ROWS + place
            for number, file in enumerate(files)
            for place in empty[file]
        ]
    return written


def _here(write: Callable[[pa.Table], pa.Table], blocks: Sequence[pa.Table]) -> list[pa.Table]:
    return [write(block) for block in blocks]


def _write_everywhere(
    write: Callable[[pa.Table], pa.Table], blocks: list[pa.Table], processes: int | None
) -> list[dict[str, Any]]:
    """By Ray Data, in so many processes of the cluster, or as many as it has room for."""
    import ray.data
    from ray.exceptions import RayError

    with quiet_ray_data(raise_original=True):
        try:
            pool = ray.data.TaskPoolStrategy(size=processes)
            written = ray.data.from_arrow(blocks).map_batches(
                write, batch_format="pyarrow", batch_size=None, compute=pool
            )
            rows: list[dict[str, Any]] = written.take_all()
        except RayError as error:
            if known := find(error):
                raise known from None
            problem = f"encoding failed: {error}"
            raise RunFailed.of("data", None, problem, "see the log of the Ray task") from error
    return rows


def _blocks(dataset: Dataset, split: str) -> Iterator[pa.Table]:
    """The rows of each shard of a split, with the name of its file in every row."""
    rows = dataset.splits[split]
    for number, start in enumerate(range(0, rows.num_rows, SHARD_ROWS)):
        block = rows.slice(start, SHARD_ROWS)
        yield block.append_column("file", pa.repeat(f"{split}-{number:05}.arrow", len(block)))


@naming_this_node()
def _write_shard(
    block: pa.Table,
    *,
    task: str,
    labels: tuple[str, ...],
    max_length: int,
    tokenizer_path: str,
    model: ModelSpec,
    folder: Location,
) -> pa.Table:
    """Encode the rows of one shard, write it, and say what was written."""
    (name,) = set(block["file"].to_pylist())
    tokenizer = _tokenizer(tokenizer_path, model)
    kind = get_task(task)
    rows = {column: block[column].to_pylist() for column in kind.columns}
    examples = kind.examples(tokenizer, rows, labels, max_length)
    made_of = pa.array(examples.rows, pa.int64())
    columns = {
        "text": block[kind.columns[0]].cast(pa.large_string()).combine_chunks().take(made_of),
        "target": pa.array(examples.targets, pa.int64()),
        "ids": pa.array(examples.ids, pa.list_(pa.int32())),
    }
    batch = pa.record_batch(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    content = sink.getvalue()
    try:
        if batch.num_rows:
            (folder / name).write_bytes(content)
    except OSError as error:
        raise _unwritable(folder, error) from None
    shard = Shard(name, batch.num_rows, len(content), checksum.of_content(content))
    told = {"tokens": examples.lengths, "empty": examples.empty}
    lists = {key: pa.array([values], pa.list_(pa.int32())) for key, values in told.items()}
    return pa.table({**{key: [value] for key, value in vars(shard).items()}, **lists})


@lru_cache(maxsize=1)
def _tokenizer(path: str, model: ModelSpec) -> PreTrainedTokenizerBase:
    if Path(path).is_dir():
        return load_tokenizer(Path(path), model.trust_remote_code)
    # The driver's folder is not on this node.
    return find_pretrained(model).tokenizer()


def _check_written(
    work: Location, written: list[Shard], encoded: dict[str, int], blocks: list[pa.Table]
) -> None:
    """All shards are there, whole, and can be seen from here. Raises StorageError. encoded: the
    rows that each was made of."""
    expected = {block["file"][0].as_py(): block.num_rows for block in blocks}
    assert encoded == expected, "Ray Data lost rows"
    try:
        check_shards(work, written)
    except StorageError:
        raise StorageError.of(
            "storage",
            str(work),
            "files that other nodes of the cluster wrote are not to be seen from here",
            "name a root that all nodes share: a network folder, s3://, gs://",
        ) from None


def _write_cleaning(folder: Location, dataset: Dataset) -> None:
    """The report and the rows left out, unless they are there already."""
    lines = (json.dumps(row.to_json(), default=str) + "\n" for row in dataset.quarantine)
    report = json.dumps(dataset.report.to_json(), indent=2, ensure_ascii=False) + "\n"
    for name, content in ((QUARANTINE, "".join(lines)), (REPORT, report)):
        file = folder / name
        if not file.exists() or file.read_bytes() != content.encode():
            file.write_text(content)


def _write_manifest(
    folder: Location,
    identity: dict[str, Any],
    labels: tuple[str, ...],
    written: _Written,
) -> None:
    splits = {split: [vars(shard) for shard in listed] for split, listed in written.shards.items()}
    manifest = {
        **identity,
        "labels": list(labels),
        "splits": splits,
        "lengths": {split: vars(of) for split, of in written.lengths.items()},
        "tokenless": written.tokenless,
    }
    (folder / CACHE_MANIFEST).write_json(manifest)
