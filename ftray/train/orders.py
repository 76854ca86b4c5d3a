"""The arguments that a driver sends to its worker processes.

This module must stay light to import, as the driver itself does not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftray.cluster.connection import Resources
from ftray.data.encoding.encoded import EncodedDataset
from ftray.models.artifact.groups import Groups
from ftray.spec.schema import Spec
from ftray.store.files.location import Location
from ftray.store.root import Root
from ftray.store.runs.folder import Fence

if TYPE_CHECKING:
    from ftray.train.distributed.events import Sender
    from ftray.train.trunk_cache.cache import TrunkCache

BASELINES = "baselines.safetensors"
"""File in the run's folder with the baselines that were fitted before the training."""
SPLITS = ("train", "validation")
"""Splits whose rows the trunk cache stores; a run reads the test split only once."""


@dataclass(frozen=True)
class Export:
    """The arguments of an export: load the trained values of the best checkpoint under
    `checkpoints` into the base model, and write the model folder `target`."""

    spec: Spec
    data: EncodedDataset
    checkpoints: Location
    target: Location
    run: str
    trials: tuple[dict[str, Any], ...] = ()
    """The table of the sweep that this model won; empty without a sweep."""
    baselines: Location | None = None
    """The file of the fitted baselines, which the export evaluates beside the model."""
    rows: Location | None = None
    """The file for the outcome of each row of the test split; None where none is wanted."""
    groups: Groups | None = None
    """The groups of the test rows whose metrics are wanted."""
    since: float | None = None
    """Unix time at which the training would have begun without pauses; None without training."""


@dataclass(frozen=True)
class WorkerArgs:
    """The arguments of a training worker. checkpoints: the folder for checkpoints; baselines: the
    file for the baselines, None where none are wanted; until: the epoch to stop after; export: what
    the workers do after the training."""

    spec: Spec
    data: EncodedDataset
    checkpoints: Location
    sender: Sender | None = None
    baselines: Location | None = None
    trunks: tuple[TrunkCache, ...] = ()
    until: int | None = None
    fence: Fence | None = None
    """Checks whether this driver still owns the run; None where no other driver can take it."""
    export: Export | None = None


@dataclass(frozen=True)
class TrunkOrder:
    """An order for trunk caches. The caches serve runs of `spec` with the values of train.unfreeze
    in `variants`. passes: how often all runs together read each row; each: the resources of a
    process that computes hidden states."""

    spec: Spec
    variants: tuple[Spec, ...]
    passes: float
    data: EncodedDataset
    root: Root
    each: Resources

    @property
    def rows(self) -> int:
        return sum(self.data.rows[split] for split in SPLITS)
