"""Reads encoded rows from the cache: `EncodedDataset` is a small handle to send to workers,
`EncodedSplit` holds the rows of one split."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from ftray.data.cleaning.report import NO_TOKENS, in_words
from ftray.data.encoding.lengths import Lengths
from ftray.errors import StorageError
from ftray.store.files import checksum
from ftray.store.files.location import Location
from ftray.store.root import CACHE_MANIFEST

REPORT, QUARANTINE = "report.json", "quarantine.jsonl"
_FIX = "run again: the folder is made anew"
_READS_AT_ONCE = 8


@dataclass(frozen=True)
class Shard:
    """One Arrow IPC file of consecutive examples: text (string, the question), target (int64),
    ids (int32 list)."""

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
    """The examples of one split in the order of the source. Local shards are memory-mapped, so the
    processes of a machine share one copy.

    lengths: (rows,) int64, tokens of each row
    targets: (rows,) int64, as in `Examples`
    """

    empty = np.empty(0, dtype=np.int64)
    """An empty array of row indices."""

    def __init__(self, shards: Iterable[pa.Table]) -> None:
        # A shard has one record batch, so each of its columns is contiguous in memory.
        batches = [shard.combine_chunks().to_batches()[0] for shard in shards]
        offsets = [batch["ids"].offsets.to_numpy().astype(np.int64) for batch in batches]
        self._texts = [batch["text"] for batch in batches]
        self._ids = [batch["ids"].values.to_numpy() for batch in batches]
        self._offsets = offsets
        self._starts = np.cumsum([0, *(batch.num_rows for batch in batches)])
        self.lengths = np.concatenate([np.diff(ends) for ends in offsets])
        self.targets = np.concatenate([batch["target"].to_numpy() for batch in batches])

    def __len__(self) -> int:
        return len(self.lengths)

    def ids_of(self, row: int) -> np.ndarray:
        """Return the token ids of a row, (tokens,) int32: a read-only view."""
        shard, index = self._find(row)
        start, end = self._offsets[shard][index : index + 2]
        return self._ids[shard][start:end]

    def texts(self, rows: Iterable[int]) -> list[str]:
        """Return the texts of `rows`."""
        found = (self._find(row) for row in rows)
        return [self._texts[shard][index].as_py() for shard, index in found]

    def _find(self, row: int) -> tuple[int, int]:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        shard = int(np.searchsorted(self._starts, row, side="right")) - 1
        return shard, int(row - self._starts[shard])


@dataclass(frozen=True)
class EncodedDataset:
    """A handle on encoded rows. Its pickle is small, so that it can be sent to any worker."""

    location: Location
    digest: str
    labels: tuple[str, ...]
    shards: Mapping[str, tuple[Shard, ...]]
    """Split -> its shards, in the order of the rows."""
    report: Mapping[str, Any]
    """The cleaning report, as JSON."""
    lengths: Mapping[str, Lengths] = field(default_factory=dict)
    """Split -> statistics of the lengths of its rows."""
    tokenless: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Split -> indices of the clean rows that give no token and so are in no shard."""

    @property
    def rows(self) -> dict[str, int]:
        """Split -> number of examples."""
        return {split: sum(s.rows for s in shards) for split, shards in self.shards.items()}

    def lines(self) -> Iterator[str]:
        """Yield lines for people: the rows that give no token, the lengths of the rows of train,
        and the lengths of other splits where rows are cut."""
        for split, places in self.tokenless.items():
            if places:
                yield f"{split} split: {in_words(NO_TOKENS, len(places))} left out"
        for split, lengths in self.lengths.items():
            if split == "train" or lengths.longer:
                yield from lengths.lines(f"{split} split")

    def load(self, split: str) -> EncodedSplit:
        """Load the examples of a split. Raises StorageError where a shard is damaged."""
        with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
            return EncodedSplit(pool.map(self._read, self.shards[split]))

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
    labels = tuple(manifest["labels"])
    tokenless = {split: tuple(places) for split, places in manifest["tokenless"].items()}
    return EncodedDataset(location, manifest["digest"], labels, shards, report, lengths, tokenless)


def check_shards(location: Location, shards: list[Shard]) -> None:
    """Raise StorageError when a file is missing or has another size than when it was written."""
    infos = location.infos([shard.file for shard in shards])
    wrong = [s.file for s, info in zip(shards, infos, strict=True) if info.size != s.bytes]
    if wrong:
        raise _not_whole(location, f"shards missing or cut short: {', '.join(wrong[:3])}")


def _not_whole(location: Location, problem: str) -> Exception:
    return StorageError.of(str(location), None, problem, _FIX)
