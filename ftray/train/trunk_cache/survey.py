"""Surveys a trunk cache: where the model can be cut, and which rows have no hidden states yet."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from ftray import digest
from ftray.cluster.device import own_device
from ftray.cluster.node import naming_this_node
from ftray.data.encoding.encoded import EncodedDataset
from ftray.errors import FtrayError, ModelError
from ftray.models.structure.blocks import plan_freeze
from ftray.models.structure.cut import (
    Cut,
    capture,
    cuttable_blocks,
    find_cut,
    frozen_blocks,
)
from ftray.models.structure.placing import without_numbers
from ftray.spec.schema import Spec
from ftray.store.cache.trunk_states import drop_damaged, known_rows
from ftray.store.root import Root
from ftray.tasks import get_task
from ftray.tasks.features import Example, cost, input_digest
from ftray.train.base import load_base
from ftray.train.distributed.context import DistContext
from ftray.train.distributed.process import settle
from ftray.train.engine.deepspeed import wants_autocast
from ftray.train.engine.phases import Phase, plan_phases
from ftray.train.orders import SPLITS, TrunkOrder
from ftray.train.trunk_cache.cache import DTYPES, TrunkCache, trunk_key

BATCH = 32
_PROBE_ROWS = 4


@dataclass(frozen=True)
class Survey:
    """The result of a survey. caches: the possible caches; lacking: the rows that any cache lacks,
    longest first: (N, 3) int64 with the number of the split, the row, and one bit for each cache
    that lacks the row; bytes: the size of the hidden states of these rows; row_seconds: the seconds
    that the blocks below the highest cut take for one row; notes: lines for the user."""

    caches: tuple[TrunkCache, ...]
    lacking: np.ndarray
    bytes: int
    row_seconds: float
    notes: tuple[str, ...]

    def table(self) -> pa.Table:
        """Return the rows in `lacking` as a table for `Filler`."""
        return pa.table(list(self.lacking.T), names=["split", "row", "lacks"])


def survey(order: TrunkOrder) -> Survey | FtrayError:
    """Run the survey, usually in a Ray task. An FtrayError is returned instead of raised, as Ray
    would retry a task that raises."""
    try:
        with naming_this_node():
            return _survey(order)
    except FtrayError as error:
        return error


def _survey(order: TrunkOrder) -> Survey:
    model = TrunkModel(order.spec, order.data)
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
    lacking = _lacking(caches, order.data, model)
    size = _bytes_of(caches, lacking, order.data)
    return Survey(tuple(caches), lacking, size, seconds, tuple(notes))


class TrunkModel:
    """The uncut base model, for a process that computes hidden states."""

    def __init__(self, spec: Spec, data: EncodedDataset) -> None:
        settle(spec)
        self.spec = spec
        self.data = data
        self.task = get_task(spec.task)
        self.device = own_device()
        base = load_base(spec, data.schema)
        self.model = base.model.eval().to(self.device)
        self.setup = base.setup
        self.features = self.task.features(base.setup)
        self.ragged = any(f.role == "input" and f.shape is None for f in self.features.values())
        self.autocast = wants_autocast(spec.train, DistContext(0, 1, self.device))

    def depths(self, variants: Sequence[Spec]) -> list[int]:
        """Return the numbers of lowest blocks that stay frozen throughout a run: the distinct
        numbers over `variants`, sorted, without 0. Raises ModelError where the model cannot be
        cut between any of its blocks."""
        blocks, found = cuttable_blocks(self.model), set()
        for variant in variants:
            phases = plan_phases(variant.train, len(blocks))
            try:
                found.add(without_numbers(self.model, self._probe, partial(_frozen, phases)))
            except ModelError:
                continue  # the run of this variant will raise the same error
        return sorted(found - {0})

    def cache(self, blocks: int, root: Root) -> TrunkCache:
        """Return the cache for a cut above the lowest `blocks` blocks. Raises ModelError where the
        model cannot be cut there."""
        cut = find_cut(self.model, blocks, self._probe)
        precision = self.spec.train.trunk_precision
        key = trunk_key(self.spec, self.setup.schema, self.model, cut, precision, self.autocast)
        folder = root.trunk_cache(digest.of_json(key))
        (states,) = capture(self.model, [cut], self._probe)
        shape = tuple(cut.kept(states[0]).shape)[1 if self.ragged else 0 :]
        return TrunkCache(folder, cut, precision, shape, self.ragged, self.autocast, key)

    def digest(self, example: Example) -> bytes:
        """Return the digest under which the caches store an example."""
        return input_digest(example, self.features)

    def states(
        self, caches: Sequence[TrunkCache], examples: Sequence[Example]
    ) -> list[list[bytes]]:
        """Compute, for each cache, the bytes of the hidden states that it stores of each
        example."""
        found = self._capture([cache.cut for cache in caches], examples)
        lengths = [self._length(example) for example in examples]
        return [
            [
                _bytes(cache.cut.kept(row[:length]).to(DTYPES[cache.precision]))
                for row, length in zip(states, lengths, strict=True)
            ]
            for cache, states in zip(caches, found, strict=True)
        ]

    def _length(self, example: Example) -> int | None:
        return cost(example, self.features) if self.ragged else None

    def row_seconds(self, caches: Sequence[TrunkCache]) -> float:
        """Measure the seconds that the blocks below the highest cut take for one row of the
        training split."""
        train = self.data.load("train")
        chosen = np.argsort(train.lengths, kind="stable")[:: max(1, len(train) // BATCH)]
        examples = train.examples(chosen)
        batches = [examples[start : start + 8] for start in range(0, len(examples), 8)]
        cuts = [cache.cut for cache in caches]
        for _ in range(2):  # the first pass is a warm-up
            started = time.perf_counter()
            for batch in batches:
                self._capture(cuts, batch)
        return (time.perf_counter() - started) / len(examples)

    def _capture(self, cuts: Sequence[Cut], examples: Sequence[Example]) -> list[torch.Tensor]:
        """Return the hidden states at each cut: (B, ...) on the CPU."""
        inputs = self._inputs(examples)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            return [states.cpu() for states in capture(self.model, cuts, inputs)]

    @cached_property
    def _probe(self) -> dict[str, torch.Tensor]:
        """A batch of rows with different lengths, for tests of the model."""
        train = self.data.load("train")
        order = np.argsort(train.lengths, kind="stable")
        chosen = order[np.linspace(0, len(order) - 1, _PROBE_ROWS).astype(int)]
        return self._inputs(train.examples(chosen))

    def _inputs(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        return self.task.collate(self.setup, examples).to(self.device).inputs


def _frozen(phases: Sequence[Phase], model: nn.Module, inputs: Mapping[str, Any]) -> int:
    """Return the number of lowest blocks that train in none of the phases."""
    plans = [plan_freeze(model, phase.selection, inputs) for phase in phases]
    return min(frozen_blocks(model, plan) for plan in plans)


def _bytes(states: torch.Tensor) -> bytes:
    return states.contiguous().view(torch.uint8).numpy().tobytes()


def _lacking(caches: Sequence[TrunkCache], data: EncodedDataset, model: TrunkModel) -> np.ndarray:
    """Return the rows that any of the caches lacks, as Survey.lacking; duplicates appear once."""
    known = [known_rows(cache.folder) for cache in caches]
    seen: set[bytes] = set()
    rows = []
    for number, name in enumerate(SPLITS):
        split = data.load(name)
        for row in range(len(split)):
            key = model.digest(split.example(row))
            bits = sum(1 << i for i, there in enumerate(known) if key not in there)
            if bits and key not in seen:
                seen.add(key)
                rows.append((number, row, bits, split.lengths[row]))
    table = np.array(sorted(rows, key=lambda entry: -entry[3]), np.int64).reshape(-1, 4)
    return table[:, :3]


def _bytes_of(caches: Sequence[TrunkCache], lacking: np.ndarray, data: EncodedDataset) -> int:
    """Return the total bytes of the hidden states of the lacking rows, over all caches that lack
    them."""
    lengths = [data.load(split).lengths for split in SPLITS]
    tokens = np.array([lengths[split][row] for split, row, _ in lacking], np.int64)
    total = 0
    for number, cache in enumerate(caches):
        own = tokens[(lacking[:, 2] >> number & 1).astype(bool)]
        kept = int(own.sum()) if cache.ragged and not cache.cut.reads else len(own)
        total += kept * math.prod(cache.shape) * DTYPES[cache.precision].itemsize
    return total
