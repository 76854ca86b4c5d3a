"""Encodes clean rows as examples in the cache: Ray Data encodes them once, later runs find them.

A split is cut into shards of `SHARD_ROWS` rows. Where there are many rows, Ray tasks encode them,
and each task writes its shard itself: rows pass through the driver once, and the file names give
their order. On a local root, all files are written to a folder beside the final one, and the folder
is then renamed. On an object store, the manifest is written last. In both cases, two runs that
encode the same rows at the same time end with the same folder.
"""

from __future__ import annotations

import json
import logging
import math
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ftray import digest
from ftray.cluster.connection import is_this_machine
from ftray.cluster.node import naming_this_node
from ftray.data.dataset import Dataset
from ftray.data.encoding.encoded import (
    QUARANTINE,
    REPORT,
    ROW,
    EncodedDataset,
    EncodedSplit,
    Shard,
    check_shards,
    open_encoded,
)
from ftray.data.encoding.lengths import Lengths
from ftray.data.encoding.ray_data_output import quiet_ray_data
from ftray.data.encoding.rejected import without_rejected
from ftray.errors import FtrayError, RunFailed, StorageError, StorageFault, find
from ftray.models.pretrained import find_pretrained, load_processor
from ftray.spec.schema import ModelSpec, Spec
from ftray.store.files import checksum
from ftray.store.files.location import Location
from ftray.store.root import CACHE_MANIFEST, Root
from ftray.tasks import Task, get_task, task_info
from ftray.tasks.base import TaskSetup, as_json
from ftray.tasks.features import Examples, Feature
from ftray.tasks.schema import Schema

__all__ = ["EncodedDataset", "EncodedSplit", "encode_dataset", "open_encoded"]

log = logging.getLogger(__name__)

ENCODING_VERSION = 4
"""Part of the digest: raise it when the content of shards changes."""
SHARD_ROWS = 4096
Here = Callable[[Callable[[pa.Table], pa.Table], Sequence[pa.Table]], list[pa.Table]]
_ROWS_HERE = 4 * SHARD_ROWS
"""Most rows that the driver encodes without Ray Data where its machine is the whole cluster:
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
    this process encodes them. In other cases Ray Data does.
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
            with _work_folder(root, name) as work:
                written = _write_shards(dataset, work, model_path, spec, here or _here)
                samples = _samples(dataset, written.rejected, get_task(spec.task))
                dataset = without_rejected(dataset, written.rejected, spec)
                _write_cleaning(work, dataset)
                told = {**identity, "digest": name, "samples": samples}
                _write_manifest(work, told, dataset.schema, written)
            encoded = open_encoded(folder)
        else:
            dataset = without_rejected(dataset, encoded.rejected, spec)
            # The same clean rows may come from other files: update the folder's report and
            # quarantine to the latest reading.
            _write_cleaning(folder, dataset)
    except OSError as error:
        raise _unwritable(folder, error) from None
    return replace(encoded, report=dataset.report.to_json())


@contextmanager
def _work_folder(root: Root, name: str) -> Iterator[Location]:
    """Yield a location to write the folder `name` of the cache to; move it into place on exit."""
    folder = root.data_cache(name)
    if not folder.is_local:
        # Write in place: an object store writes each file atomically, and the same rows give the
        # same files.
        yield folder
        return
    work = root.data_cache(f".{name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield work
        _publish(Path(work.path), Path(folder.path))
    finally:
        work.delete()


def _publish(work: Path, folder: Path) -> None:
    """Rename `work` to `folder`. Where `folder` exists, move the files into it one by one: this
    repairs a torn folder, and does not change a folder that another process finished first."""
    try:
        work.rename(folder)
    except OSError:
        for file in sorted(work.iterdir(), key=lambda file: file.name == CACHE_MANIFEST):
            file.replace(folder / file.name)


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


def _unwritable(folder: Location, error: OSError) -> FtrayError:
    if isinstance(error, StorageFault):
        return error
    fix = "free space there, or name a root that you may write to"
    return StorageError.of("storage", str(folder), f"cannot be written: {error}", fix)


@dataclass(frozen=True)
class _Written:
    """For each split, its shards in order, the lengths of its rows, and the indices of the rows
    without examples, each with the kind of its fault; the features of the examples."""

    shards: dict[str, list[Shard]]
    lengths: dict[str, Lengths]
    rejected: dict[str, dict[int, str]]
    features: dict[str, Any]


def _write_shards(
    dataset: Dataset, work: Location, model_path: str, spec: Spec, here: Here
) -> _Written:
    """Encode and write all splits."""
    blocks = [block for split in dataset.splits for block in _blocks(dataset, split)]
    write = partial(
        _write_shard,
        spec=spec,
        schema=dataset.schema,
        model_path=model_path,
        folder=work,
        most=SHARD_ROWS,
    )
    count = sum(block.num_rows for block in blocks)
    if count <= _ROWS_HERE and is_this_machine():
        rows = [row for written in here(write, blocks) for row in written.to_pylist()]
    else:
        # Starting a process for each small split takes longer than encoding all splits in one.
        rows = _write_everywhere(write, blocks, processes=1 if count <= SHARD_ROWS else None)
    rows.sort(key=lambda row: row["file"])
    tokens = {row["file"]: row.pop("lengths") for row in rows}
    rejected = {row["file"]: dict(json.loads(row.pop("rejected"))) for row in rows}
    (features,) = {row.pop("features") for row in rows}
    shards = [shard for row in rows if (shard := Shard(**row)).rows]
    encoded = {file: len(tokens[file]) + len(rejected[file]) for file in tokens}
    _check_written(work, shards, encoded, blocks)
    written = _Written({}, {}, {}, json.loads(features))
    for split in dataset.splits:
        files = [file for file in tokens if file.rpartition("-")[0] == split]
        listed = [shard for shard in shards if shard.file in files]
        lengths = np.concatenate([tokens[file] for file in files])
        count = sum(shard.rows for shard in listed)
        written.shards[split] = listed
        written.lengths[split] = Lengths.of(lengths, count, spec.data.max_length)
        written.rejected[split] = {
            number * SHARD_ROWS + place: kind
            for number, file in enumerate(files)
            for place, kind in rejected[file].items()
        }
    return written


def _here(write: Callable[[pa.Table], pa.Table], blocks: Sequence[pa.Table]) -> list[pa.Table]:
    return [write(block) for block in blocks]


def _write_everywhere(
    write: Callable[[pa.Table], pa.Table], blocks: list[pa.Table], processes: int | None
) -> list[dict[str, Any]]:
    """Encode with Ray Data, in `processes` processes of the cluster; None for as many as it has
    room for."""
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
    """Yield the rows of each shard of a split, with a column that holds the shard's file name."""
    rows = dataset.splits[split]
    for number, start in enumerate(range(0, rows.num_rows, SHARD_ROWS)):
        block = rows.slice(start, SHARD_ROWS)
        yield block.append_column("file", pa.repeat(f"{split}-{number:05}.arrow", len(block)))


def _samples(dataset: Dataset, rejected: Mapping[str, Mapping[int, str]], task: Task) -> list[Any]:
    """Return the first questions of the test split that have examples, as JSON has them."""
    rows, without = dataset.splits["test"], rejected["test"]
    kept = [place for place in range(rows.num_rows) if place not in without][:SAMPLES]
    return [
        as_json(task.question(row)) for row in rows.take(pa.array(kept, pa.int64())).to_pylist()
    ]


@naming_this_node()
def _write_shard(
    block: pa.Table, *, spec: Spec, schema: Schema, model_path: str, folder: Location, most: int
) -> pa.Table:
    """Encode the rows of one shard and write it. Return one row that describes the shard. most:
    rows of every shard but the last."""
    (name,) = set(block["file"].to_pylist())
    task = get_task(spec.task)
    setup = TaskSetup(
        _processor(model_path, spec.task, spec.model),
        schema,
        spec.data.max_length,
        spec.options,
    )
    rows = {n: block[n].to_pylist() for n in task.columns if n in block.column_names}
    examples = task.examples(setup, rows)
    features = task.features(setup)
    batch = arrow_batch(examples, features, int(name.rpartition("-")[2].split(".")[0]) * most)
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
    told = {
        "rejected": [json.dumps(list(examples.rejected.items()))],
        "features": [json.dumps({name: of.to_json() for name, of in features.items()})],
        "lengths": pa.array([examples.lengths], pa.list_(pa.int32())),
    }
    return pa.table({**{key: [value] for key, value in vars(shard).items()}, **told})


def arrow_batch(examples: Examples, features: Mapping[str, Feature], first: int) -> pa.RecordBatch:
    """Return the examples as columns, one for each feature that they have, and under `ROW` the
    number of each example's row in its split. first: number of the shard's first row."""
    columns = {
        name: _column(examples.features[name], feature)
        for name, feature in features.items()
        if name in examples.features
    }
    rows = pa.array(np.array(examples.rows, dtype=np.int64) + first)
    return pa.record_batch({**columns, ROW: rows})


def _column(values: list[Any], feature: Feature) -> pa.Array:
    kind = pa.from_numpy_dtype(feature.dtype)
    if feature.shape is None:
        return pa.array(values, pa.list_(kind))
    size = math.prod(feature.shape)
    if feature.shape == ():
        return pa.array(values, kind)
    flat = np.stack(values).astype(feature.dtype).ravel() if values else np.empty(0, feature.dtype)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), size)


@lru_cache(maxsize=1)
def _processor(path: str, task: str, model: ModelSpec) -> Any:
    info = task_info(task)
    if Path(path).is_dir():
        return load_processor(Path(path), info, model.trust_remote_code)
    # This node lacks the driver's folder: fetch the model here.
    return find_pretrained(model).processor(info)


def _check_written(
    work: Location, written: list[Shard], encoded: dict[str, int], blocks: list[pa.Table]
) -> None:
    """Check that the driver can see all shards, and that they have their full size. Raises
    StorageError. encoded: shard -> number of rows that it was made of."""
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
    """Write the report and the rows left out, unless the files already have this content."""
    lines = (json.dumps(row.to_json(), default=str) + "\n" for row in dataset.quarantine)
    report = json.dumps(dataset.report.to_json(), indent=2, ensure_ascii=False) + "\n"
    for name, content in ((QUARANTINE, "".join(lines)), (REPORT, report)):
        file = folder / name
        if not file.exists() or file.read_bytes() != content.encode():
            file.write_text(content)


def _write_manifest(
    folder: Location, identity: dict[str, Any], schema: Schema, written: _Written
) -> None:
    splits = {split: [vars(shard) for shard in listed] for split, listed in written.shards.items()}
    manifest = {
        **identity,
        "schema": schema.model_dump(mode="json"),
        "features": written.features,
        "splits": splits,
        "lengths": {split: vars(of) for split, of in written.lengths.items()},
        "rejected": {split: list(of.items()) for split, of in written.rejected.items()},
    }
    (folder / CACHE_MANIFEST).write_json(manifest)
