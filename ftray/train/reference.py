"""Keeps what the base model gives for the examples of a data set, beside the encoded rows: later
runs from the same base model, and a run that goes on, read it instead of computing it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ftray import digest
from ftray.data.encoding.encoded import EncodedDataset, EncodedSplit
from ftray.data.encoding.shards import unwritable
from ftray.spec.schema import Spec
from ftray.store.files.location import Location
from ftray.tasks import get_task
from ftray.train.distributed.context import DistContext
from ftray.train.engine.deepspeed_config import uses_bf16
from ftray.train.plan import Trainee
from ftray.train.trunk_cache.cache import computed_with

VERSION = 1
"""Part of the key: raise this version when the content of the file changes."""
Columns = Mapping[str, np.ndarray]
"""Feature -> its value of each example of a split, (examples, ...) float32."""


@dataclass(frozen=True)
class ReferenceFile:
    """The file with the features `from_base` of a data set's examples. An object store writes a
    file whole or not at all, and so does `Location`: it needs no manifest."""

    file: Location
    names: tuple[str, ...]
    writes: bool
    """Whether this rank writes the file."""

    @classmethod
    def of(cls, data: EncodedDataset, spec: Spec, trainee: Trainee, ranks: DistContext) -> Self:
        """Every rank must call this method: rank 0 finds the name of the file."""
        name = ranks.gather(_name(spec, trainee, ranks) if ranks.rank == 0 else "")[0]
        return cls(data.location / name, get_task(spec.task).from_base, ranks.rank == 0)

    def read(self, splits: Mapping[str, EncodedSplit]) -> Mapping[str, Columns] | None:
        """Return the features of the examples of each split; None where the file is missing or
        damaged."""
        try:
            found = load(bytes(self.file.buffer()))
        except (FileNotFoundError, SafetensorError):
            return None
        try:
            kept = {s: {name: found[f"{s}/{name}"] for name in self.names} for s in splits}
        except KeyError:
            return None
        whole = all(
            len(values) == len(splits[split])
            for split, columns in kept.items()
            for values in columns.values()
        )
        return kept if whole else None

    def write(self, found: Mapping[str, Columns]) -> None:
        """Write the features of each split, on one rank. Raises StorageError."""
        if self.writes:
            content = {f"{s}/{name}": v for s, of in found.items() for name, v in of.items()}
            try:
                self.file.write_bytes(save(content))
            except OSError as error:
                raise unwritable(self.file, error) from None


def _name(spec: Spec, trainee: Trainee, ranks: DistContext) -> str:
    """Return a name that differs where the base model would give other numbers."""
    cache = trainee.trunk.cache if trainee.trunk else None
    key: dict[str, Any] = {
        "version": VERSION,
        **computed_with(
            spec, trainee.setup.schema, trainee.model, trainee.plan.autocast, ranks.device
        ),
        "bf16": uses_bf16(spec.train),
        "trunk": cache and {"cut": vars(cache.cut), "precision": cache.precision},
    }
    return f"base-{digest.of_json(key)}.safetensors"
