"""The trunk cache from the side of a training worker.

The worker opens the cache with the highest cut inside the frozen blocks, recomputes the hidden
states of a few rows to verify the cached ones, and trains without the blocks below the cut.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from ftray.errors import StorageError
from ftray.models.pretrained import find_pretrained
from ftray.models.structure.cut import Cut, capture
from ftray.spec.schema import Spec
from ftray.store.cache.trunk_states import TrunkStateStore
from ftray.store.files.location import Location
from ftray.tasks import Task

VERSION = 1
"""Part of the key: raise this version when the content of cached hidden states changes."""
_PACKAGES = ("torch", "transformers")
Precision = Literal["bf16", "fp32"]
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
STATES = "states"
"""Key of a batch's cached hidden states, (B, T, D), beside its token ids."""

SAMPLE = 4
"""Rows that a worker recomputes to verify a cache."""
# Tolerated differences relative to the largest hidden state, in fp32 and with bf16: kernels round
# differently for another batch shape, and bf16 keeps 8 bits.
_TOLERANCE, _LOW_TOLERANCE = 1e-4, 2**-5


@dataclass(frozen=True)
class TrunkCache:
    """A handle on cached hidden states: small when pickled, so that the driver can send it to any
    worker.

    width: elements of one token's hidden state; autocast: whether the blocks ran in bf16; key: the
    named values that the hidden states depend on.
    """

    folder: Location
    cut: Cut
    precision: Precision
    width: int
    autocast: bool
    key: Mapping[str, Any]


def trunk_key(
    spec: Spec, model: nn.Module, cut: Cut, precision: Precision, autocast: bool
) -> dict[str, Any]:
    """Return the named values that the hidden states of a cache depend on, as they are in this
    process."""
    config: Any = model.config
    return {
        "version": VERSION,
        "model": find_pretrained(spec.model).weights_digest(),
        "attention": config._attn_implementation,  # noqa: SLF001 - there is no public name
        "autocast": autocast,
        "device": next(model.parameters()).device.type,
        "cut": vars(cut),
        "precision": precision,
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
    }


class Trunk:
    """Reads batches of hidden states from a cache. Raises StorageError for an incomplete
    folder."""

    def __init__(self, cache: TrunkCache) -> None:
        self.cache = cache
        self._kept = TrunkStateStore(cache.folder)

    def tokens(self, ids: Sequence[Any]) -> list[Any]:
        """Return, for each row, the token ids whose hidden states the cache stores."""
        return [self.cache.cut.kept(row) for row in ids]

    def states(self, ids: Sequence[np.ndarray], rows: int, length: int) -> torch.Tensor:
        """Return the cached hidden states of rows, zero-padded to (rows, length, D). `ids`: all
        token ids of each row."""
        bits = np.dtype(f"i{DTYPES[self.cache.precision].itemsize}")  # numpy has no bf16
        states = np.zeros((rows, length, self.cache.width), bits)
        for target, row in zip(states, ids, strict=False):
            values = np.frombuffer(self._kept.of(row), bits).reshape(-1, self.cache.width)
            target[: len(values)] = values
        return torch.from_numpy(states).view(DTYPES[self.cache.precision])

    def blank(self, rows: int, length: int) -> torch.Tensor:
        """Return zeros with the shape and precision of `states`."""
        shape = (rows, length, self.cache.width)
        return torch.zeros(shape, dtype=DTYPES[self.cache.precision])

    @property
    def _tolerance(self) -> float:
        exact = self.cache.precision == "fp32" and not self.cache.autocast
        return _TOLERANCE if exact else _LOW_TOLERANCE

    def check(
        self, spec: Spec, model: nn.Module, task: Task, ids: Sequence[np.ndarray], pad_id: int
    ) -> None:
        """Recompute the hidden states of the rows `ids`, and compare them with the cached ones.
        Raises StorageError where they differ; the error names the parts of the cache's key that
        differ in this process."""
        batch = task.collate(list(ids), pad_id)
        device = next(model.parameters()).device
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.cache.autocast):
            (found,) = capture(
                model.eval(), [self.cache.cut], {n: t.to(device) for n, t in batch.items()}
            )
        for row, states in zip(ids, found.float().cpu(), strict=True):
            expected = self.states([row], 1, len(row))[0].float()
            computed = self.cache.cut.kept(states[: len(row)])
            expected = expected[: len(computed)]
            gap = (computed - expected).abs().max()
            if not gap <= self._tolerance * computed.abs().max():
                raise StorageError.of(
                    str(self.cache.folder),
                    None,
                    f"holds states that the model does not give here (off by {float(gap):.3g}): "
                    + self._lies(spec, model),
                    "delete the folder: it is made anew",
                )

    def _lies(self, spec: Spec, model: nn.Module) -> str:
        """Describe the parts of the cache's key that differ in this process."""
        cache = self.cache
        here = trunk_key(spec, model, cache.cut, cache.precision, cache.autocast)
        lies = [
            f"{name} is {value} and was {cache.key.get(name)} where it was filled"
            for name, value in here.items()
            if cache.key.get(name) != value
        ]
        return "; ".join(lies) or "all that its key names is the same, so its files were changed"


def best_cache(caches: Sequence[TrunkCache], frozen: int) -> TrunkCache | None:
    """Return the cache with the highest cut for a run whose lowest `frozen` blocks never train;
    None where no cache fits."""
    fitting = [cache for cache in caches if cache.cut.blocks <= frozen]
    return max(fitting, key=lambda cache: cache.cut.blocks, default=None)
