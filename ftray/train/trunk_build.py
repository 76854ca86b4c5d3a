"""Filling the trunk cache: on the driver, before anything trains.

A process of the cluster finds out where the model can be cut, and which rows have no states yet;
Ray Data computes those, rows of like length side by side, a shard for each block of rows.
"""

from __future__ import annotations

import importlib.metadata
import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import ray
import torch

from ftray import digest
from ftray.cluster import Resources, slots
from ftray.data.encoded import EncodedDataset, EncodedSplit
from ftray.data.quiet import quiet_ray_data
from ftray.errors import FtrayError, ModelError, RunFailed, SpecError, StorageError
from ftray.models.blocks import count_blocks, plan_freeze
from ftray.models.pretrained import find_pretrained
from ftray.models.trunk import Cut, capture, find_cut, frozen_blocks
from ftray.spec.schema import Spec
from ftray.store.evict import make_room
from ftray.store.location import Location
from ftray.store.root import Root
from ftray.store.states import drop_damaged, known_rows, row_digest, write_key, write_shard
from ftray.tasks import get_task
from ftray.train.engine import wants_autocast
from ftray.train.phases import plan_phases
from ftray.train.process import settle
from ftray.train.ranks import Ranks
from ftray.train.trunk import DTYPES, TrunkCache
from ftray.train.worker import load_base

VERSION = 1
"""Part of the key: raise it when states change in what they hold."""
_PACKAGES = ("torch", "transformers")
_SPLITS = ("train", "validation")
_SHARD_ROWS, _SHARD_BYTES = 1024, 128 << 20
_BATCH = 32
_PROBE_ROWS = 4
# Below these a cache costs more than it saves: it takes the start of one process or two.
_WORTH_ROWS, _WORTH_SECONDS = 20_000, 15.0


@dataclass(frozen=True)
class TrunkOrder:
    """What a cache is wanted for: runs of `spec` that differ as `variants` do in what they unfreeze
    and read each row `passes` times in all. each: what a process that computes states gets."""

    spec: Spec
    variants: tuple[Spec, ...]
    passes: int
    data: EncodedDataset
    root: Root
    each: Resources

    @property
    def rows(self) -> int:
        return sum(self.data.rows[split] for split in _SPLITS)


@dataclass(frozen=True)
class Survey:
    """caches: what can be used; lacking: the rows that some of them lack, (N, 3) int64 of split
    number, row and a bit for each cache that lacks it, longest first; bytes: what these will take;
    row_seconds: what the blocks below the highest cut take for a row; notes: for the user."""

    caches: tuple[TrunkCache, ...]
    lacking: np.ndarray
    bytes: int
    row_seconds: float
    notes: tuple[str, ...]

    def table(self) -> pa.Table:
        """The rows that are lacking, as a `Filler` takes them."""
        return pa.table(list(self.lacking.T), names=["split", "row", "lacks"])


def prepare_trunk(order: TrunkOrder, say: Callable[[str], None]) -> tuple[TrunkCache, ...]:
    """The caches for such runs; their rows are computed where they are not there yet. None where
    nothing is gained.

    Raises FtrayError where train.trunk_cache is on and there can be none.
    """
    wish = order.spec.train.trunk_cache
    if wish == "off":
        return ()
    try:
        return _prepared(order, say)
    except FtrayError as error:
        if wish == "on":
            raise
        say(f"no trunk cache: {error}")
        return ()


def _prepared(order: TrunkOrder, say: Callable[[str], None]) -> tuple[TrunkCache, ...]:
    train = order.spec.train
    if train.token_dropout:
        problem = f"train.token_dropout {train.token_dropout:g} makes other rows of them each time"
        raise SpecError.of("train.trunk_cache", "on", problem, "set one of them to 0 or off")
    forced = train.trunk_cache == "on"
    if not forced and order.passes * order.rows < _WORTH_ROWS:
        return ()  # not even worth loading the model
    found = _ask(order)
    for note in found.notes:
        say(note)
    if not found.caches:
        if forced:
            fix = "set train.trunk_cache to auto, or train.unfreeze to fewer blocks"
            raise SpecError.of("train.trunk_cache", "on", "no block stays frozen throughout", fix)
        return ()
    saved = (order.passes * order.rows - len(found.lacking)) * found.row_seconds
    if not forced and saved < _WORTH_SECONDS:
        say(f"no trunk cache: it would save {saved:.0f} s")
        return ()
    depths = ", ".join(str(cache.cut.blocks) for cache in found.caches)
    say(
        f"trunk cache: what the lowest blocks ({depths}) give is kept, to save some {saved:.0f} s; "
        f"{len(found.lacking):,} of {order.rows:,} rows are to be computed"
    )
    if len(found.lacking):
        keep = {cache.folder.name for cache in found.caches}
        for name in make_room(order.root, found.bytes, 1e9 * train.trunk_gb, keep):
            say(f"trunk cache: {name}, which was not used for longest, made room")
        _fill(order, found)
    for cache in found.caches:
        write_key(cache.folder, dict(cache.key))
    return found.caches


def _ask(order: TrunkOrder) -> Survey:
    task = ray.remote(num_cpus=order.each.cpus, num_gpus=order.each.gpus)(survey)
    found = ray.get(task.remote(order))
    if isinstance(found, FtrayError):
        raise found
    return found


def survey(order: TrunkOrder) -> Survey | FtrayError:
    """In a process of the cluster. What is the user's fault is returned, as a task that raises is
    tried again."""
    try:
        model = _Model(order.spec, order.data)
        caches, notes = [], []
        for blocks in model.depths(order.variants):
            try:
                caches.append(model.cache(blocks, order.root))
            except ModelError as error:
                if order.spec.train.trunk_cache == "on":
                    raise
                notes.append(f"no trunk cache: {error}")
        damaged = [name for cache in caches for name in drop_damaged(cache.folder)]
        notes += [f"{name} of the trunk cache was damaged and is made anew" for name in damaged]
        seconds = model.row_seconds(caches) if caches else 0.0
        lacking = _lacking(caches, order.data)
        size = _bytes_of(caches, lacking, order.data)
        return Survey(tuple(caches), lacking, size, seconds, tuple(notes))
    except FtrayError as error:
        return error


class _Model:
    """The whole base model in a process that computes states."""

    def __init__(self, spec: Spec, data: EncodedDataset) -> None:
        settle(spec)
        self.spec = spec
        self.data = data
        self.task = get_task(spec.task)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        base = load_base(spec.model, spec.task, spec.seed, data.labels, spec.train.dropout)
        self.model = base.model.eval().to(self.device)
        self.pad_id = base.pad_id
        self.autocast = wants_autocast(spec.train, Ranks(0, 1, self.device))

    def depths(self, variants: Sequence[Spec]) -> list[int]:
        """How many blocks stay frozen throughout a run, for each number that occurs but 0."""
        found = set()
        for variant in variants:
            phases = plan_phases(variant.train, count_blocks(self.model))
            try:
                plans = [plan_freeze(self.model, phase.selection, self._probe) for phase in phases]
                found.add(min(frozen_blocks(self.model, plan) for plan in plans))
            except ModelError:
                continue  # that run will say so itself
        return sorted(found - {0})

    def cache(self, blocks: int, root: Root) -> TrunkCache:
        """Raises ModelError where the model cannot be cut there."""
        cut = find_cut(self.model, blocks, self._probe)
        precision = self.spec.train.trunk_precision
        config = self.model.config
        key = {
            "version": VERSION,
            "model": self._weights,
            "attention": getattr(config, "_attn_implementation", None),
            "autocast": self.autocast,
            "device": self.device.type,
            "cut": vars(cut),
            "precision": precision,
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        }
        folder = root.trunk_cache(digest.of_json(key))
        (states,) = capture(self.model, [cut], self._probe)
        return TrunkCache(folder, cut, precision, states.shape[-1], self.autocast, key)

    def states(self, caches: Sequence[TrunkCache], ids: Sequence[np.ndarray]) -> list[list[bytes]]:
        """For each cache what it keeps of each row."""
        found = self._capture([cache.cut for cache in caches], ids)
        return [
            [
                _bytes(cache.cut.kept(row[: len(own)]).to(DTYPES[cache.precision]))
                for row, own in zip(states, ids, strict=True)
            ]
            for cache, states in zip(caches, found, strict=True)
        ]

    def row_seconds(self, caches: Sequence[TrunkCache]) -> float:
        """What the blocks below the highest cut take for a row of the training split."""
        train = self.data.load("train")
        chosen = np.argsort(train.lengths, kind="stable")[:: max(1, len(train) // _BATCH)]
        ids = [train.ids_of(row) for row in chosen]
        batches = [ids[start : start + 8] for start in range(0, len(ids), 8)]
        cuts = [cache.cut for cache in caches]
        for _ in range(2):  # the second time counts
            started = time.perf_counter()
            for batch in batches:
                self._capture(cuts, batch)
        return (time.perf_counter() - started) / len(ids)

    def _capture(self, cuts: Sequence[Cut], ids: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """For each cut (B, T, D) on the CPU."""
        batch = self._to_device(self.task.collate(list(ids), self.pad_id))
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            return [states.cpu() for states in capture(self.model, cuts, batch)]

    @cached_property
    def _weights(self) -> str:
        return find_pretrained(self.spec.model).weights_digest()

    @cached_property
    def _probe(self) -> dict[str, torch.Tensor]:
        """Rows of different lengths."""
        train = self.data.load("train")
        order = np.argsort(train.lengths, kind="stable")
        chosen = order[np.linspace(0, len(order) - 1, _PROBE_ROWS).astype(int)]
        return self._to_device(self.task.collate([train.ids_of(r) for r in chosen], self.pad_id))

    def _to_device(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor.to(self.device) for name, tensor in batch.items()}


def _bytes(states: torch.Tensor) -> bytes:
    return states.contiguous().view(torch.uint8).numpy().tobytes()


def _lacking(caches: Sequence[TrunkCache], data: EncodedDataset) -> np.ndarray:
    """See Survey.lacking."""
    known = [known_rows(cache.folder) for cache in caches]
    seen: set[bytes] = set()
    rows = []
    for number, name in enumerate(_SPLITS):
        split = data.load(name)
        for row in range(len(split)):
            key = row_digest(split.ids_of(row))
            bits = sum(1 << i for i, there in enumerate(known) if key not in there)
            if bits and key not in seen:
                seen.add(key)
                rows.append((number, row, bits, split.lengths[row]))
    table = np.array(sorted(rows, key=lambda entry: -entry[3]), np.int64).reshape(-1, 4)
    return table[:, :3]


def _bytes_of(caches: Sequence[TrunkCache], lacking: np.ndarray, data: EncodedDataset) -> int:
    """What the states of these rows take, in all of the caches that lack them."""
    lengths = [data.load(split).lengths for split in _SPLITS]
    tokens = np.array([lengths[split][row] for split, row, _ in lacking], np.int64)
    total = 0
    for number, cache in enumerate(caches):
        own = tokens[(lacking[:, 2] >> number & 1).astype(bool)]
        kept = len(own) if cache.cut.reads else int(own.sum())
        total += kept * cache.width * DTYPES[cache.precision].itemsize
    return total


def _fill(order: TrunkOrder, found: Survey) -> None:
    """Compute what is lacking, by Ray Data on all of the cluster. Raises FtrayError."""
    import ray.data
    from ray.exceptions import RayError

    each, caches = order.each, found.caches
    rows = found.table()
    numbers = order.spec.data.max_length * sum(cache.width for cache in caches)
    row_bytes = numbers * DTYPES[caches[0].precision].itemsize
    size = max(_BATCH, min(_SHARD_ROWS, _SHARD_BYTES // row_bytes))
    blocks = [rows.slice(start, size) for start in range(0, rows.num_rows, size)]
    pool = ray.data.ActorPoolStrategy(size=min(slots(each), len(blocks)))
    with quiet_ray_data():
        try:
            filled = ray.data.from_arrow(blocks).map_batches(
                Filler,
                fn_constructor_args=(order.spec, order.data, caches),
                batch_size=None,
                batch_format="pyarrow",
                compute=pool,
                num_cpus=each.cpus,
                num_gpus=each.gpus,
                # What an actor that dies has written is kept, and the rest is made the next time.
                max_restarts=0,
            )
            failures = [row["failure"] for row in filled.iter_rows() if row["failure"]]
        except RayError as error:
            last = str(error).strip().splitlines()[-1]
            raise RunFailed.of("trunk cache", None, last, "see the logs of Ray Data") from error
    if failures:
        raise pickle.loads(failures[0])


class Filler:
    """An actor: block of rows in, a shard in each cache out."""

    def __init__(self, spec: Spec, data: EncodedDataset, caches: tuple[TrunkCache, ...]) -> None:
        self._order = (spec, data)
        self._caches = caches

    @cached_property
    def _model(self) -> _Model:
        return _Model(*self._order)

    @cached_property
    def _splits(self) -> list[EncodedSplit]:
        return [self._order[1].load(name) for name in _SPLITS]

    def __call__(self, block: pa.Table) -> pa.Table:
        # An FtrayError is returned: what Ray Data raises holds on to its actors.
        try:
            self._write(block)
        except FtrayError as error:
            return pa.table({"failure": [pickle.dumps(error)]})
        return pa.table({"failure": pa.array([None], pa.binary())})

    def _write(self, block: pa.Table) -> None:
        shards: list[dict[bytes, bytes]] = [{} for _ in self._caches]
        for batch in block.to_batches(_BATCH):
            columns = (batch[name].to_pylist() for name in ("split", "row", "lacks"))
            split, row, lacks = (list(column) for column in columns)
            ids = [self._splits[s].ids_of(r) for s, r in zip(split, row, strict=True)]
            for number, kept in enumerate(self._model.states(self._caches, ids)):
                for own, states, bits in zip(ids, kept, lacks, strict=True):
                    if bits >> number & 1:
                        shards[number][row_digest(own)] = states
        for cache, shard in zip(self._caches, shards, strict=True):
            if shard:
                _write(cache.folder, shard)


def _write(folder: Location, shard: dict[bytes, bytes]) -> None:
    try:
        write_shard(folder, list(shard), list(shard.values()))
    except OSError as error:
        fix = "free space there, or set train.trunk_cache to off"
        raise StorageError.of(str(folder), None, f"cannot be written: {error}", fix) from None
