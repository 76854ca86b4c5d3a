"""Encodes clean rows as examples in the cache: a first run encodes them, later runs find them.

A split is cut into shards of `SHARD_ROWS` rows. The driver reads the sources in batches and hands
out one block of rows for each shard. Where there are many rows, Ray tasks encode the blocks, a few
more than there are CPUs at a time, and each task writes its shard itself. The same rows give the
same files, each file is written whole or not at all, and the manifest is written last. So two runs
that encode the same rows at the same time end with the same folder. A run after one that was killed
goes on from the shards that are there, and a run on a source that grew takes those of the same rows
from the run before.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ftray import digest
from ftray.cluster.connection import is_this_machine
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
from ftray.data.encoding.everywhere import map_everywhere
from ftray.data.encoding.lengths import Lengths
from ftray.data.encoding.rejected import without_rejected
from ftray.data.encoding.shards import WrittenShard, unwritable, write_shard
from ftray.data.split_rows import Block, SplitRows
from ftray.errors import StorageError, StorageFault
from ftray.spec.schema import Spec
from ftray.store.files.location import Location, locate
from ftray.store.root import CACHE_MANIFEST, Root
from ftray.store.runs.folder import list_runs
from ftray.tasks import Task, get_task
from ftray.tasks.base import as_json
from ftray.tasks.schema import Schema

__all__ = ["EncodedDataset", "EncodedSplit", "encode_dataset", "open_encoded"]

log = logging.getLogger(__name__)

ENCODING_VERSION = 5
"""Part of the digest: raise it when the content of shards changes."""
SHARD_ROWS = 4096
_FILES_FEWER = 16
"""By how much shards have fewer rows where each row has a file: an image may be large."""
Here = Callable[[Callable[[Block], WrittenShard], Iterable[Block]], Iterator[WrittenShard]]
_ROWS_HERE = 4 * SHARD_ROWS
"""Most rows that the driver encodes without Ray tasks where its machine is the whole cluster:
starting a process would take longer."""
SAMPLES = 8
"""Most questions of the test split that the manifest keeps, for golden answers."""


def encode_dataset(
    dataset: Dataset,
    model_path: str,
    processor_digest: str,
    spec: Spec,
    root: Root,
    here: Here | None = None,
) -> EncodedDataset:
    """Return the encoded rows of `dataset` under the storage root; encode them unless they are
    there.

    `here` encodes the blocks where they are few and this machine is the whole cluster; by default
    this process encodes them. In other cases Ray tasks do.
    `model_path` is a local folder; a node that lacks it fetches the spec's model. Raises ModelError
    for a processor that does not load; DataError for rows that the processor makes nothing of,
    where bad rows are not skipped; and StorageError for a root that cannot be written or that the
    cluster's nodes do not share.
    """
    identity = {
        "encoding_version": ENCODING_VERSION,
        "data": dataset.digest,
        "processor": processor_digest,
        "task": spec.task,
        "max_length": spec.data.max_length,
        "options": spec.options.model_dump(mode="json"),
    }
    name = digest.of_json(identity)
    folder = root.data_cache(name)
    try:
        encoded = _open(folder)
        if encoded is None:
            write = partial(
                write_shard,
                spec=spec,
                schema=dataset.schema,
                model_path=model_path,
                like=digest.of_json({**identity, "data": None, "schema": _json(dataset.schema)}),
                folder=folder,
                earlier=_earlier(root, dataset, spec, identity),
            )
            written = _write_shards(dataset, folder, write, spec, here or map)
            rejected = written.rejected["test"]
            samples = _samples(dataset.splits["test"], rejected, get_task(spec.task))
            dataset = without_rejected(dataset, written.rejected, spec)
            _write_cleaning(folder, dataset)
            told = {**identity, "digest": name, "samples": samples}
            _write_manifest(folder, told, dataset.schema, written)
            encoded = open_encoded(folder)
        else:
            dataset = without_rejected(dataset, encoded.rejected, spec)
            # The same clean rows may come from other files: update the folder's report and
            # quarantine to the latest reading.
            _write_cleaning(folder, dataset)
    except OSError as error:
        raise unwritable(folder, error) from None
    return replace(encoded, report=dataset.report.to_json())


def _open(folder: Location) -> EncodedDataset | None:
    """Open the data set in `folder`; None where it is missing or damaged."""
    if not (folder / CACHE_MANIFEST).is_file():
        return None
    try:
        encoded = open_encoded(folder)
        # Check only a local folder: reading all of a remote one here costs more than noticing the
        # damage when its shards are used.
        damage = encoded.damage() if folder.is_local else ""
    except StorageFault:
        raise
    except StorageError as error:
        damage = error.problems[0].problem
    if damage:
        log.warning("the encoded data in %s is damaged and made anew: %s", folder, damage)
        return None
    return encoded


@dataclass(frozen=True)
class _Written:
    """For each split, its shards in order, the lengths of its rows, and the indices of the rows
    without examples, each with the kind of its fault; the features of the examples."""

    shards: dict[str, list[Shard]]
    lengths: dict[str, Lengths]
    rejected: dict[str, dict[int, str]]
    features: dict[str, Any]


def _earlier(
    root: Root, dataset: Dataset, spec: Spec, identity: Mapping[str, Any]
) -> Location | None:
    """Return the folder with the rows of the newest run of the spec's name that had others."""
    for run in reversed(list_runs(root, spec.name)):
        inputs = run.inputs
        if inputs is not None and inputs.data_digest != dataset.digest:
            return root.data_cache(digest.of_json({**identity, "data": inputs.data_digest}))
    return None


def _write_shards(
    dataset: Dataset,
    folder: Location,
    write: Callable[[Block], WrittenShard],
    spec: Spec,
    here: Here,
) -> _Written:
    """Write the shards of all splits."""
    fewer = _FILES_FEWER if spec.info.files else 1
    blocks = dataset.blocks(max(1, SHARD_ROWS // fewer))
    count = sum(rows.num_rows for rows in dataset.splits.values())
    if count <= _ROWS_HERE and is_this_machine():
        found = list(here(write, blocks))
    else:
        # Starting a process for each small split takes longer than encoding all splits in one.
        found = list(map_everywhere(write, blocks, at_once=1 if count <= SHARD_ROWS else None))
    found.sort(key=lambda of: of.shard.file)
    _check_written(folder, found, {name: rows.num_rows for name, rows in dataset.splits.items()})
    written = _Written({}, {}, {}, found[0].features)
    for split in dataset.splits:
        own = [of for of in found if of.split == split]
        shards = [of.shard for of in own if of.shard.rows]
        lengths = np.concatenate([of.lengths for of in own])
        count = sum(shard.rows for shard in shards)
        written.shards[split] = shards
        written.lengths[split] = Lengths.of(lengths, count, spec.data.max_length)
        written.rejected[split] = {row: kind for of in own for row, kind in of.rejected.items()}
    return written


def _samples(rows: SplitRows, rejected: Mapping[int, str], task: Task) -> list[Any]:
    """Return the first questions of a split that have examples, as JSON has them."""
    kept = [*islice((row for row in range(rows.num_rows) if row not in rejected), SAMPLES)]
    found = (row for table in rows.tables(kept) for row in table.to_pylist())
    return [as_json(task.question(row)) for row in found]


def _check_written(
    folder: Location, written: Sequence[WrittenShard], rows: Mapping[str, int]
) -> None:
    """Check that the driver can see all shards, and that they have their full size. Raises
    StorageError. rows: split -> its rows."""
    for split, count in rows.items():
        assert count == sum(of.encoded for of in written if of.split == split), "rows are lost"
    assert all(of.features == written[0].features for of in written)
    try:
        check_shards(folder, [of.shard for of in written if of.shard.rows])
    except StorageError:
        raise StorageError.of(
            "storage",
            str(folder),
            "files that other nodes of the cluster wrote are not to be seen from here",
            "name a root that all nodes share: a network folder, s3://, gs://",
        ) from None


def _write_cleaning(folder: Location, dataset: Dataset) -> None:
    """Write the report and the rows left out, unless the files already have this content."""
    report = json.dumps(dataset.report.to_json(), indent=2, ensure_ascii=False) + "\n"
    with tempfile.TemporaryDirectory(prefix="ftray-") as name:
        quarantine = Path(name) / QUARANTINE
        with quarantine.open("w", encoding="utf-8") as file:
            for row in dataset.dropped():
                file.write(json.dumps(row.to_json(), default=str) + "\n")
        for file_name, content in (
            (QUARANTINE, locate(str(quarantine)).buffer()),
            (REPORT, pa.py_buffer(report.encode())),
        ):
            target = folder / file_name
            if not target.exists() or not target.buffer().equals(content):
                target.write_bytes(content)


def _json(schema: Schema) -> dict[str, Any]:
    return schema.model_dump(mode="json")


def _write_manifest(
    folder: Location, identity: dict[str, Any], schema: Schema, written: _Written
) -> None:
    splits = {split: [vars(shard) for shard in listed] for split, listed in written.shards.items()}
    manifest = {
        **identity,
        "schema": _json(schema),
        "features": written.features,
        "splits": splits,
        "lengths": {split: vars(of) for split, of in written.lengths.items()},
        "rejected": {split: list(of.items()) for split, of in written.rejected.items()},
    }
    (folder / CACHE_MANIFEST).write_json(manifest)
