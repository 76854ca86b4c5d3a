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
from ftray.tasks.base import TaskSetup
from ftray.tasks.features import Example, Feature, Layout, cost, in_rows, input_digest
from ftray.tasks.schema import Schema

VERSION = 2
"""Part of the key: raise this version when the content of cached hidden states changes."""
_PACKAGES = ("torch", "transformers")
Precision = Literal["bf16", "fp32"]
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
STATES = "states"
"""Key of a batch's cached hidden states, (B, ...), beside its inputs."""

SAMPLE = 4
"""Rows that a worker recomputes to verify a cache."""
# Tolerated differences relative to the largest hidden state, in fp32 and with bf16: kernels round
# differently for another batch shape, and bf16 keeps 8 bits.
_TOLERANCE, _LOW_TOLERANCE = 1e-4, 2**-5


@dataclass(frozen=True)
class TrunkCache:
    """A handle on cached hidden states: small when pickled, so that the driver can send it to any
    worker.

    shape: of one example's hidden states, without the first axis where examples differ in length;
    ragged: whether they do; autocast: whether the blocks ran in bf16; key: the named values that
    the hidden states depend on.
    """

    folder: Location
    cut: Cut
    precision: Precision
    shape: tuple[int, ...]
    ragged: bool
    autocast: bool
    key: Mapping[str, Any]


def trunk_key(
    spec: Spec, schema: Schema, model: nn.Module, cut: Cut, precision: Precision, autocast: bool
) -> dict[str, Any]:
    """Return the named values that the hidden states of a cache depend on, as they are in this
    process."""
    device = next(model.parameters()).device
    return {
        "version": VERSION,
        **computed_with(spec, schema, model, autocast, device),
        "cut": vars(cut),
        "precision": precision,
    }


def computed_with(
    spec: Spec, schema: Schema, model: nn.Module, autocast: bool, device: torch.device
) -> dict[str, Any]:
    """Return the named values that the numbers of the base model depend on, as they are in this
    process."""
    config: Any = model.config
    pretrained = find_pretrained(spec.model, schema)
    return {
        "model": pretrained.weights_digest(),
        "processor": pretrained.processor_digest(),  # it normalizes images
        "attention": config._attn_implementation,  # noqa: SLF001 - there is no public name
        "autocast": autocast,
        "device": device.type,
        **({"weights": spec.train.weights} if spec.train.weights == "nf4" else {}),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
    }


class Trunk:
    """Reads batches of hidden states from a cache. Raises StorageError for an incomplete
    folder."""

    def __init__(self, cache: TrunkCache, features: Mapping[str, Feature]) -> None:
        self.cache = cache
        self._features = features
        self._kept = TrunkStateStore(cache.folder)

    def shortened(self, examples: Sequence[Example]) -> list[Example]:
        """Return the examples without the tokens whose hidden states the cache does not store."""
        if self.cache.cut.reads is None or not self.cache.ragged:
            return list(examples)
        return [
            {name: self._shortened(name, value) for name, value in example.items()}
            for example in examples
        ]

    def _shortened(self, name: str, value: Any) -> Any:
        feature = self._features[name]
        is_cut = feature.role == "input" and feature.shape is None
        return self.cache.cut.kept(value) if is_cut else value

    def states(self, examples: Sequence[Example], layout: Layout | None = None) -> torch.Tensor:
        """Return the cached hidden states of examples, (B, T, ...) zero-padded to the longest where
        they differ in length, else (B, ...). layout: of their batch, where examples share rows."""
        found = [self._of(example) for example in examples]
        states = in_rows(found, found[0].dtype, layout=layout)
        return torch.from_numpy(states).view(DTYPES[self.cache.precision])

    def _of(self, example: Example) -> np.ndarray:
        """Return the stored states of one example as integers: numpy has no bf16."""
        bits = np.dtype(f"i{DTYPES[self.cache.precision].itemsize}")
        values = np.frombuffer(self._kept.of(input_digest(example, self._features)), bits)
        shape = self.cache.shape
        return values.reshape((-1, *shape) if self.cache.ragged else shape)

    def blank(self, rows: int, length: int) -> torch.Tensor:
        """Return zeros with the shape and precision of `states`; length: of each example, where
        examples differ in length."""
        kept = 1 if self.cache.cut.reads else length
        shape = (kept, *self.cache.shape) if self.cache.ragged else self.cache.shape
        return torch.zeros((rows, *shape), dtype=DTYPES[self.cache.precision])

    @property
    def _tolerance(self) -> float:
        exact = self.cache.precision == "fp32" and not self.cache.autocast
        return _TOLERANCE if exact else _LOW_TOLERANCE

    def check(
        self,
        spec: Spec,
        model: nn.Module,
        task: Task,
        setup: TaskSetup,
        examples: Sequence[Example],
    ) -> None:
        """Recompute the hidden states of the examples, and compare them with the cached ones.
        Raises StorageError where they differ; the error names the parts of the cache's key that
        differ in this process."""
        device, cache = next(model.parameters()).device, self.cache
        batch = task.collate(setup, examples).to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=cache.autocast):
            (found,) = capture(model.eval(), [cache.cut], batch.inputs)
        for example, states in zip(examples, found.float().cpu(), strict=True):
            expected = self.states([example])[0].float()
            length = cost(example, self._features) if cache.ragged else len(states)
            computed = cache.cut.kept(states[:length])
            gap = (computed - expected).abs().max()
            if not gap <= self._tolerance * computed.abs().max():
                raise StorageError.of(
                    str(self.cache.folder),
                    None,
                    f"holds states that the model does not give here (off by {float(gap):.3g}): "
                    + self._lies(spec, setup.schema, model),
                    "delete the folder: it is made anew",
                )

    def _lies(self, spec: Spec, schema: Schema, model: nn.Module) -> str:
        """Describe the parts of the cache's key that differ in this process."""
        cache = self.cache
        here = trunk_key(spec, schema, model, cache.cut, cache.precision, cache.autocast)
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
