"""The trunk cache's store of hidden states: maps the digest of an example's inputs to its states.

A folder of the trunk cache belongs to one key (a model, the block where it is cut, a precision).
Its shards are Arrow files of rows. Each row has the digest of an example's inputs and the bytes of
its hidden states. A process writes a shard whole and never changes it; a shard's name holds its
checksum. So any number of processes may add to a folder at once, a killed process loses only the
shard that it was writing, and new rows only add shards.

    manifest.json               the key, written when the first shards are there
    states-XXH3-RANDOM.arrow    row (16 bytes), states (bytes)
"""

from __future__ import annotations

import uuid
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ftray.errors import StorageError, StorageFault
from ftray.store.files import checksum
from ftray.store.files.location import Location
from ftray.store.root import CACHE_MANIFEST

_READS_AT_ONCE = 8
_PREFIX, _SUFFIX = "states-", ".arrow"
_SCHEMA = pa.schema({"row": pa.binary(16), "states": pa.large_binary()})


def write_shard(folder: Location, rows: Sequence[bytes], states: Sequence[bytes]) -> None:
    """Add a shard with the hidden states of rows, named by their digests. Raises OSError."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, _SCHEMA) as writer:
        writer.write_batch(
            pa.record_batch(
                [pa.array(rows, pa.binary(16)), pa.array(states, pa.large_binary())], schema=_SCHEMA
            )
        )
    content = sink.getvalue()
    name = f"{_PREFIX}{checksum.of_content(content)}-{uuid.uuid4().hex[:12]}{_SUFFIX}"
    (folder / name).write_bytes(content)


def write_key(folder: Location, key: dict[str, Any]) -> None:
    (folder / CACHE_MANIFEST).write_json(key)


def drop_damaged(folder: Location) -> list[str]:
    """Delete the shards that differ from what was written, and return their names."""
    shards = list(_shards(folder))
    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
        whole = pool.map(_is_whole, shards)
        damaged = [file for file, is_whole in zip(shards, whole, strict=True) if not is_whole]
    for file in damaged:
        file.delete()
    return [file.name for file in damaged]


def known_rows(folder: Location) -> set[bytes]:
    """Return the digests of all rows with hidden states in the folder."""
    return {row for file in _shards(folder) for row in _open(file)["row"].to_pylist()}


@dataclass(frozen=True)
class _Place:
    shard: int
    index: int


class TrunkStateStore:
    """The hidden states in a folder of the cache. Local shards are memory-mapped, so that the
    processes of a machine share one copy. Raises StorageError for a shard that cannot be read."""

    def __init__(self, folder: Location) -> None:
        self._folder = folder
        self._values: list[np.ndarray] = []
        self._offsets: list[np.ndarray] = []
        self._places: dict[bytes, _Place] = {}
        for shard, file in enumerate(_shards(folder)):
            batch = _open(file)
            _, offsets, values = batch["states"].buffers()
            self._offsets.append(np.frombuffer(offsets, np.int64)[: batch.num_rows + 1])
            self._values.append(np.frombuffer(values or b"", np.uint8))
            for index, row in enumerate(batch["row"].to_pylist()):
                self._places[row] = _Place(shard, index)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._places

    def of(self, digest: bytes) -> memoryview:
        """Return the bytes of the hidden states of the example with this digest.

        Raises StorageError where the store has none."""
        place = self._places.get(digest)
        if place is None:
            fix = "run again: what is missing is made"
            raise StorageError.of(str(self._folder), None, "has no states of a row", fix)
        start, end = self._offsets[place.shard][place.index : place.index + 2]
        return self._values[place.shard][start:end].data


def _shards(folder: Location) -> Iterable[Location]:
    return [file for file in folder.children() if file.name.startswith(_PREFIX)]


def _is_whole(file: Location) -> bool:
    kept = file.name.split("-")[1]
    content = file.buffer()
    if len(kept) == 8:  # the CRC-32 of an older ftray
        return f"{zlib.crc32(content):08x}" == kept
    return checksum.of_content(content) == kept


def _open(file: Location) -> pa.RecordBatch:
    try:
        return pa.ipc.open_file(file.buffer()).get_batch(0)
    except StorageFault:
        raise
    except (OSError, pa.ArrowException) as error:
        fix = "delete the file: it is made anew"
        raise StorageError.of(str(file), None, f"cannot be read: {error}", fix) from None
