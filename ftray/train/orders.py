"""What a driver asks of other processes. Light to import: a driver that has others compute needs no
torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftray.cluster.connection import Resources
from ftray.data.encoding.encoded import EncodedDataset
from ftray.spec.schema import Spec
from ftray.store.files.location import Location
from ftray.store.root import Root
from ftray.store.runs.folder import Fence

if TYPE_CHECKING:
    from ftray.train.distributed.events import Sender
    from ftray.train.trunk_cache.cache import TrunkCache

BASELINES = "baselines.safetensors"
"""In the run's folder: what was fitted before the training."""
SPLITS = ("train", "validation")
"""Whose rows the trunk cache keeps: the test split is read once."""


@dataclass(frozen=True)
class WorkerArgs:
    """What the driver sends to each worker. checkpoints: the folder to keep them in; baselines:
    the file to keep them in, None where none are wanted; until: the epoch to stop after."""

    spec: Spec
    data: EncodedDataset
    checkpoints: Location
    sender: Sender | None = None
    baselines: Location | None = None
    trunks: tuple[TrunkCache, ...] = ()
    until: int | None = None
    fence: Fence | None = None
    """What says whether the run is still this driver's; None where nobody else can take it."""


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
        return sum(self.data.rows[split] for split in SPLITS)


@dataclass(frozen=True)
class Export:
    """What to export and where to: the trained values in `checkpoint` over the base model."""

    spec: Spec
    data: EncodedDataset
    checkpoint: Location
    target: Location
    run: str
    trials: tuple[dict[str, Any], ...] = ()
    """The table of the sweep that this model won."""
    baselines: Location | None = None
    """The file of what was fitted before the training, to be measured beside the model."""
    seconds: float = 0.0
    """That the training took."""
