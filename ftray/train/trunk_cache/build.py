"""Fills the trunk cache before the training, controlled by the driver.

First a survey in a process of the cluster finds where the model can be cut and which rows have no
cached hidden states yet. Then Ray Data computes the hidden states of these rows, in batches of rows
of similar length, and writes one shard for each block of rows. Where the cluster is the driver's
own machine without GPUs, this process runs the survey itself, and also computes the hidden states
if that takes less time than the start of other processes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property

import pyarrow as pa
import ray

from ftray.cluster.capacity import pool_size
from ftray.cluster.connection import is_this_machine, nodes
from ftray.cluster.node import naming_this_node
from ftray.data.encoding.encoded import EncodedDataset, EncodedSplit
from ftray.data.encoding.ray_data_output import quiet_ray_data
from ftray.errors import FtrayError, RunFailed, SpecError, StorageError, from_json
from ftray.models.transformers_output import quiet_transformers
from ftray.spec.load import override
from ftray.spec.schema import Spec
from ftray.store.cache.evict import make_room
from ftray.store.cache.trunk_states import write_key, write_shard
from ftray.store.files.location import Location
from ftray.store.files.retry import reason
from ftray.tasks import get_task
from ftray.train.distributed.events import Listener, stage
from ftray.train.orders import SPLITS, TrunkOrder
from ftray.train.trunk_cache.cache import DTYPES, TrunkCache
from ftray.train.trunk_cache.survey import BATCH, Survey, TrunkModel, survey

_SHARD_ROWS, _SHARD_BYTES = 1024, 128 << 20
# Below these numbers (rows read by the runs, seconds saved) a cache costs more than it saves, as
# filling it starts one or two processes.
_WORTH_ROWS, _WORTH_SECONDS = 20_000, 15.0
_HERE_SECONDS = 30.0
"""The calling process computes hidden states itself if that takes fewer seconds than this."""


def prepare_trunk(
    order: TrunkOrder,
    say: Callable[[str], None],
    listener: Listener = lambda event: None,
) -> tuple[TrunkCache, ...]:
    """Return the trunk caches for the runs of `order`, and compute the hidden states that they
    lack. Returns an empty tuple where a cache is off, not possible, or not worth its cost.

    Raises FtrayError where train.trunk_cache is on and no cache is possible.
    """
    wish = order.spec.train.trunk_cache
    if wish == "off":
        return ()
    try:
        return _prepared(order, say, listener)
    except FtrayError as error:
        if wish == "on":
            raise
        say(f"no trunk cache: {error}")
        return ()


def _prepared(
    order: TrunkOrder, say: Callable[[str], None], listener: Listener
) -> tuple[TrunkCache, ...]:
    train = order.spec.train
    task = get_task(order.spec.task)
    if (augments := task.augmented_by(order.spec.options, train.token_dropout)) is not None:
        problem = f"{augments} makes other rows of them each time"
        raise SpecError.of("train.trunk_cache", "on", problem, "set one of them to 0 or off")
    forced = train.trunk_cache == "on"
    if not forced and order.passes * order.rows < _WORTH_ROWS:
        return ()  # with so few rows the survey, which loads the model, is not worth its cost
    listener(stage("surveying the trunk"))
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
        listener(stage("building the trunk cache"))
        _fill(order, found)
    for cache in found.caches:
        write_key(cache.folder, dict(cache.key))
    return found.caches


def _ask(order: TrunkOrder) -> Survey:
    if _is_here(order):
        with quiet_transformers():
            found = survey(_with_all_cores(order))
    else:
        task = ray.remote(num_cpus=order.each.cpus, num_gpus=order.each.gpus)(survey)
        found = ray.get(task.remote(order))
    if isinstance(found, FtrayError):
        raise found
    return found


def _is_here(order: TrunkOrder) -> bool:
    """Return whether this process has the resources of a worker: the cluster is this machine alone,
    and workers use no GPU."""
    return is_this_machine() and not order.each.gpus


def _with_all_cores(order: TrunkOrder) -> TrunkOrder:
    cores = sum(node.cpus for node in nodes())
    return replace(order, spec=override(order.spec, {"scale.cpus_per_worker": cores}))


def _fill(order: TrunkOrder, found: Survey) -> None:
    """Compute and store the hidden states of the rows that the caches lack. Raises FtrayError."""
    caches, rows = found.caches, found.table()
    numbers = sum(_numbers(cache, order.spec.data.max_length) for cache in caches)
    row_bytes = numbers * DTYPES[caches[0].precision].itemsize
    size = max(BATCH, min(_SHARD_ROWS, _SHARD_BYTES // row_bytes))
    blocks = [rows.slice(start, size) for start in range(0, rows.num_rows, size)]
    if _is_here(order) and found.row_seconds * rows.num_rows < _HERE_SECONDS:
        with quiet_transformers():
            failures = _fill_here(_with_all_cores(order), caches, blocks)
    else:
        failures = _fill_everywhere(order, caches, blocks)
    if failures:
        raise from_json(json.loads(failures[0]))


def _numbers(cache: TrunkCache, most_tokens: int) -> int:
    """Return the most numbers that a cache stores of one example."""
    return math.prod(cache.shape) * (most_tokens if cache.ragged and not cache.cut.reads else 1)


def _fill_here(
    order: TrunkOrder, caches: tuple[TrunkCache, ...], blocks: Sequence[pa.Table]
) -> list[str]:
    filler = Filler(order.spec, order.data, caches)
    failures = [filler(block)["failure"][0].as_py() for block in blocks]
    return [failure for failure in failures if failure]


def _fill_everywhere(
    order: TrunkOrder, caches: tuple[TrunkCache, ...], blocks: Sequence[pa.Table]
) -> list[str]:
    """Fill the caches with Ray Data on the whole cluster; returns the failures as JSON texts."""
    import ray.data
    from ray.exceptions import RayError

    each = order.each
    pool = ray.data.ActorPoolStrategy(size=pool_size(each, len(blocks)))
    with quiet_ray_data():
        try:
            filled = ray.data.from_arrow(list(blocks)).map_batches(
                Filler,
                fn_constructor_args=(order.spec, order.data, caches),
                batch_size=None,
                batch_format="pyarrow",
                compute=pool,
                num_cpus=each.cpus,
                num_gpus=each.gpus,
                # Do not restart actors that die. The shards that they wrote stay in the cache, and
                # the next run computes the rest.
                max_restarts=0,
            )
            return [row["failure"] for row in filled.iter_rows() if row["failure"]]
        except RayError as error:
            last = str(error).strip().splitlines()[-1]
            raise RunFailed.of("trunk cache", None, last, "see the logs of Ray Data") from error


class Filler:
    """Computes the hidden states of a block of rows and writes one shard to each cache. Runs in Ray
    Data's actors, or in the calling process."""

    def __init__(self, spec: Spec, data: EncodedDataset, caches: tuple[TrunkCache, ...]) -> None:
        self._order = (spec, data)
        self._caches = caches

    @cached_property
    def _model(self) -> TrunkModel:
        return TrunkModel(*self._order)

    @cached_property
    def _splits(self) -> list[EncodedSplit]:
        return [self._order[1].load(name) for name in SPLITS]

    def __call__(self, block: pa.Table) -> pa.Table:
        # Return an FtrayError instead of raising it, as an exception of Ray Data keeps references
        # to its actors.
        try:
            with naming_this_node():
                self._write(block)
        except FtrayError as error:
            return pa.table({"failure": [json.dumps(error.to_json())]})
        return pa.table({"failure": pa.array([None], pa.string())})

    def _write(self, block: pa.Table) -> None:
        shards: list[dict[bytes, bytes]] = [{} for _ in self._caches]
        for batch in block.to_batches(BATCH):
            columns = (batch[name].to_pylist() for name in ("split", "row", "lacks"))
            split, row, lacks = (list(column) for column in columns)
            examples = [self._splits[s].example(r) for s, r in zip(split, row, strict=True)]
            for number, kept in enumerate(self._model.states(self._caches, examples)):
                for own, states, bits in zip(examples, kept, lacks, strict=True):
                    if bits >> number & 1:
                        shards[number][self._model.digest(own)] = states
        for cache, shard in zip(self._caches, shards, strict=True):
            if shard:
                _write(cache.folder, shard)


def _write(folder: Location, shard: dict[bytes, bytes]) -> None:
    try:
        write_shard(folder, list(shard), list(shard.values()))
    except OSError as error:
        fix = "free space there, or set train.trunk_cache to off"
        raise StorageError.of(
            str(folder), None, f"cannot be written: {reason(error)}", fix
        ) from None
