"""Encodes the rows of one shard and writes it, in whatever process."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ftray.cluster.node import naming_this_node
from ftray.data.encoding.encoded import ROW, Shard
from ftray.data.split_rows import Block
from ftray.errors import FtrayError, StorageError, StorageFault
from ftray.models.pretrained import find_pretrained, load_processor
from ftray.spec.schema import ModelSpec, Spec
from ftray.store.files import checksum
from ftray.store.files.location import Location
from ftray.tasks import get_task, task_info
from ftray.tasks.base import TaskSetup
from ftray.tasks.features import Examples, Feature
from ftray.tasks.schema import Schema

_TOLD, _LENGTHS = b"ftray.told", b"ftray.lengths"
"""Metadata of a shard's file: JSON, and the lengths of its rows, int32."""


class WrittenShard(NamedTuple):
    """A shard that was written. encoded: rows that it was made of; rejected: index in the split of
    each of these rows without examples -> the kind of its fault; lengths: of the other rows,
    (rows,) int32; features: of the examples, as JSON."""

    split: str
    shard: Shard
    encoded: int
    rejected: dict[int, str]
    lengths: np.ndarray
    features: dict[str, Any]


@naming_this_node()
def write_shard(
    block: Block,
    *,
    spec: Spec,
    schema: Schema,
    model_path: str,
    like: str,
    folder: Location,
    earlier: Location | None = None,
) -> WrittenShard:
    """Encode the rows of a block and write them to `folder`, unless a run that was cut off did so.
    A shard without examples is not written.

    like: a digest of all that the examples depend on beside the rows; earlier: a folder whose
    shards are taken where they have the same rows.
    """
    file = folder / f"{block.split}-{block.number:05}.arrow"
    key = f"{like} {block.first} {block.digest}"
    content = _kept(file, key)
    if content is None:
        content = None if earlier is None else _kept(earlier / file.name, key)
        if content is None:
            content = _encoded(block, spec, schema, model_path, key)
        try:
            if _batch(content).num_rows:
                file.write_bytes(content)
        except OSError as error:
            raise unwritable(folder, error) from None
    batch = _batch(content)
    told = _told(batch)
    return WrittenShard(
        block.split,
        Shard(file.name, batch.num_rows, len(content), checksum.of_content(content)),
        told["encoded"],
        {block.first + place: kind for place, kind in told["rejected"]},
        np.frombuffer(batch.schema.metadata[_LENGTHS], np.int32),
        told["features"],
    )


def _kept(file: Location, key: str) -> pa.Buffer | None:
    """Return the content of a shard; None where it is missing or damaged, or has another key."""
    try:
        content = file.buffer()
        batch = _batch(content)
        told = _told(batch)
    except StorageFault:
        raise
    except (OSError, ValueError, pa.ArrowException):
        return None
    is_wanted = told.get("key") == key and told["checksum"] == _checksum(batch)
    return content if is_wanted else None


def _encoded(block: Block, spec: Spec, schema: Schema, model_path: str, key: str) -> pa.Buffer:
    """Return the content of the shard of a block, with what a `WrittenShard` tells in its
    metadata."""
    task = get_task(spec.task)
    processor = _processor(model_path, spec.task, spec.model, schema)
    setup = TaskSetup(processor, schema, spec.data.max_length, spec.options)
    examples = task.examples(setup, {n: block.rows[n].to_pylist() for n in block.rows.column_names})
    features = task.features(setup)
    batch = arrow_batch(examples, features, block.first)
    told = {
        "key": key,
        "checksum": _checksum(batch),
        "encoded": block.rows.num_rows,
        "rejected": list(examples.rejected.items()),
        "features": {name: of.to_json() for name, of in features.items()},
    }
    lengths = np.array(examples.lengths, np.int32).tobytes()
    batch = batch.replace_schema_metadata({_TOLD: json.dumps(told), _LENGTHS: lengths})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def _batch(content: pa.Buffer) -> pa.RecordBatch:
    return pa.ipc.open_file(content).get_batch(0)


def _told(batch: pa.RecordBatch) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((batch.schema.metadata or {}).get(_TOLD, b"{}"))
    return found


def _checksum(batch: pa.RecordBatch) -> str:
    """Return a checksum of the columns."""
    return checksum.of_content(batch.replace_schema_metadata(None).serialize())


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
def _processor(path: str, task: str, model: ModelSpec, schema: Schema) -> Any:
    info = task_info(task)
    if Path(path).is_dir():
        return load_processor(Path(path), info, model.trust_remote_code)
    # This node lacks the driver's folder: fetch the model here.
    return find_pretrained(model, schema).processor(info)


def unwritable(folder: Location, error: OSError) -> FtrayError:
    """Return the error about a folder of the cache that cannot be written."""
    if isinstance(error, StorageFault):
        return error
    fix = "free space there, or name a root that you may write to"
    return StorageError.of("storage", str(folder), f"cannot be written: {error}", fix)
