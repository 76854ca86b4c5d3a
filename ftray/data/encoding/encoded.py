"""Reads encoded rows from the cache: `EncodedDataset` is a small handle to send to workers,
`EncodedSplit` holds the rows of one split."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from ftray.data.cleaning.report import in_words
from ftray.data.encoding.lengths import Lengths
from ftray.errors import StorageError
from ftray.store.cache.node_copies import node_copy
from ftray.store.files import checksum
from ftray.store.files.location import Location
from ftray.store.root import CACHE_MANIFEST
from ftray.tasks.features import Example, Feature
from ftray.tasks.metrics import ROW
from ftray.tasks.schema import Schema

REPORT, QUARANTINE = "report.json", "quarantine.jsonl"
_FIX = "run again: the folder is made anew"
_READS_AT_ONCE = 8


@dataclass(frozen=True)
class Shard:
    """One Arrow IPC file of consecutive examples: a column for each feature, and under `ROW` the
    number of each example's row in its split (int64). A feature of fixed shape is a fixed-size
    list, one of differing length a list."""

    file: str
    rows: int
    bytes: int
    checksum: str = ""
    """Empty for a shard that an older ftray wrote."""

    def check(self, content: pa.Buffer) -> str:
        """Describe the damage of the file's content; empty when size and checksum are as
        written."""
        if content.size != self.bytes:
            return f"has {content.size} bytes and should have {self.bytes}"
        if self.checksum and checksum.of_content(content) != self.checksum:
            return "is not what was written (its checksum differs)"
        return ""


class EncodedSplit:
    """The examples of one split in the order of the source. Shards are memory-mapped, so that the
    processes of a machine share one copy; it is read as examples are asked for.

    lengths: (examples,) int64, cost by which examples are batched: elements of all inputs of
    differing length; 1 where no input differs in length
    rows: (examples,) int64, number of each example's row in the split
    """

    empty = np.empty(0, dtype=np.int64)
    """An empty array of indices."""

    def __init__(self, shards: Iterable[pa.Table], features: Mapping[str, Feature]) -> None:
        # A shard has one record batch, so each of its columns is contiguous in memory.
        batches = [shard.combine_chunks().to_batches()[0] for shard in shards]
        self._batches = batches
        there = [name for name in features if name in batches[0].schema.names]
        self._columns = [
            {name: _reader(batch[name], features[name]) for name in there} for batch in batches
        ]
        self._features = {name: features[name] for name in there}
        self._starts = np.cumsum([0, *(batch.num_rows for batch in batches)])
        self.rows = np.concatenate([batch[ROW].to_numpy() for batch in batches])
        self.lengths = np.concatenate([_costs(batch, self._features) for batch in batches])
        self._added: Mapping[str, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.lengths)

    def example(self, place: int) -> Example:
        """Return an example: feature -> read-only view of its array, or a number."""
        if not 0 <= place < len(self):
            raise IndexError(f"example {place} of {len(self)}")
        shard = int(np.searchsorted(self._starts, place, side="right")) - 1
        index = int(place - self._starts[shard])
        example = {name: read(index) for name, read in self._columns[shard].items()}
        return {**example, **{name: of[place] for name, of in self._added.items()}}

    def examples(self, places: Iterable[int]) -> list[Example]:
        return [self.example(place) for place in places]

    def having(self, columns: Mapping[str, np.ndarray]) -> EncodedSplit:
        """Return this split with further features. columns: feature -> its values, (examples,
        ...)."""
        found = copy.copy(self)
        found._added = {**self._added, **columns}
        return found

    def column(self, name: str) -> np.ndarray:
        """Return a feature of fixed shape of all examples, (examples, ...)."""
        shape = self._features[name].shape
        assert shape is not None, f"{name} differs in length"
        parts = (batch[name] for batch in self._batches)
        if shape == ():
            return np.concatenate([part.to_numpy() for part in parts])
        return np.concatenate([part.flatten().to_numpy().reshape(-1, *shape) for part in parts])


def _reader(column: pa.Array, feature: Feature) -> Callable[[int], Any]:
    """Return a function from the index of an example to its value."""
    if feature.shape is None:
        ends, flat = column.offsets.to_numpy().astype(np.int64), column.values.to_numpy()
        return lambda index: flat[ends[index] : ends[index + 1]]
    if feature.shape == ():
        return column.to_numpy().__getitem__
    values = column.values.to_numpy().reshape(-1, *feature.shape)
    return values.__getitem__


def _costs(batch: pa.RecordBatch, features: Mapping[str, Feature]) -> np.ndarray:
    lengths = [
        np.diff(batch[name].offsets.to_numpy().astype(np.int64))
        for name, feature in features.items()
        if feature.role == "input" and feature.shape is None and feature.counts
    ]
    found: np.ndarray = sum(lengths, np.zeros(batch.num_rows, np.int64))
    return found if lengths else found + 1


@dataclass(frozen=True)
class EncodedDataset:
    """A handle on encoded rows. Its pickle is small, so that it can be sent to any worker."""

    location: Location
    digest: str
    schema: Schema
    features: Mapping[str, Feature]
    """The declared features of the examples; a data set may lack some of them."""
    shards: Mapping[str, tuple[Shard, ...]]
    """Split -> its shards, in the order of the rows."""
    report: Mapping[str, Any]
    """The cleaning report, as JSON."""
    lengths: Mapping[str, Lengths] = field(default_factory=dict)
    """Split -> statistics of the lengths of its rows."""
    rejected: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    """Split -> indices of the clean rows without examples -> kind of their fault."""
    samples: tuple[Any, ...] = ()
    """The first questions of the test split, as JSON has them."""

    @property
    def rows(self) -> dict[str, int]:
        """Split -> number of examples."""
        return {split: sum(s.rows for s in shards) for split, shards in self.shards.items()}

    @property
    def labels(self) -> tuple[str, ...]:
        return self.schema.labels

    def lines(self) -> Iterator[str]:
        """Yield lines for people: the rows without examples, the lengths of the rows of train, and
        the lengths of other splits where rows are cut."""
        for split, found in self.rejected.items():
            for kind, rows in sorted(Counter(found.values()).items()):
                yield f"{split} split: {in_words(kind, rows)} left out"
        for split, lengths in self.lengths.items():
            if split == "train" or lengths.longer:
                yield from lengths.lines(f"{split} split")

    def load(self, split: str) -> EncodedSplit:
        """Map the shards of a split into memory. Those of a remote root are first copied to this
        node, once for all of its processes. Raises StorageError where a shard is damaged."""
        with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
            return EncodedSplit(pool.map(self._read, self.shards[split]), self.features)

    def damage(self) -> str:
        """Describe the damage of the first damaged shard; empty when there is none. Raises
        StorageError where shards cannot be read."""
        shards = [shard for listed in self.shards.values() for shard in listed]
        with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
            found = pool.map(lambda s: s.check((self.location / s.file).buffer()), shards)
            damaged = [f"{s.file} {wrong}" for s, wrong in zip(shards, found, strict=True) if wrong]
        return damaged[0] if damaged else ""

    def _read(self, shard: Shard) -> pa.Table:
        file = self.location / shard.file
        try:
            copy = node_copy(file, self.digest, shard.bytes)
            content = copy.buffer()
            if copy is not file and shard.check(content):
                copy.delete()  # damaged on the disk of this node
                content = file.buffer()
            if wrong := shard.check(content):
                raise self._damaged(file, wrong)
            return pa.ipc.open_file(content).read_all()
        except (FileNotFoundError, pa.ArrowException) as error:
            raise self._damaged(file, f"cannot be read: {error}") from None

    def _damaged(self, file: Location, problem: str) -> StorageError:
        # Delete the manifest: a folder without one counts as missing, so the next run makes it
        # anew.
        with suppress(OSError):
            (self.location / CACHE_MANIFEST).delete()
        return StorageError.of(str(file), None, problem, _FIX)


def open_encoded(location: Location) -> EncodedDataset:
    """Open the encoded data set in a folder of the cache.

    Raises StorageError when the manifest is missing, or a shard in the manifest is missing or has
    another size.
    """
    try:
        manifest = (location / CACHE_MANIFEST).read_json()
        report = (location / REPORT).read_json()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _not_whole(location, f"no encoded data set: {error}") from None
    except json.JSONDecodeError as error:
        raise _not_whole(location, f"a torn manifest or report: {error}") from None
    splits = manifest["splits"].items()
    shards = {split: tuple(Shard(**shard) for shard in listed) for split, listed in splits}
    check_shards(location, [shard for listed in shards.values() for shard in listed])
    lengths = {split: Lengths(**told) for split, told in manifest["lengths"].items()}
    return EncodedDataset(
        location,
        manifest["digest"],
        Schema.model_validate(manifest["schema"]),
        {name: Feature.from_json(told) for name, told in manifest["features"].items()},
        shards,
        report,
        lengths,
        {split: dict(found) for split, found in manifest["rejected"].items()},
        tuple(manifest["samples"]),
    )


def check_shards(location: Location, shards: list[Shard]) -> None:
    """Raise StorageError when a file is missing or has another size than when it was written."""
    infos = location.infos([shard.file for shard in shards])
    wrong = [s.file for s, info in zip(shards, infos, strict=True) if info.size != s.bytes]
    if wrong:
        raise _not_whole(location, f"shards missing or cut short: {', '.join(wrong[:3])}")


def _not_whole(location: Location, problem: str) -> Exception:
    return StorageError.of(str(location), None, problem, _FIX)
