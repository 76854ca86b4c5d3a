"""Exports a model from a training state, without training."""

from __future__ import annotations

from pathlib import Path

from ftray.data.encoding.encoded import EncodedDataset
from ftray.models.artifact.groups import Groups
from ftray.spec.schema import Spec
from ftray.store.files.location import locate
from ftray.train.checkpoint.manager import CheckpointManager
from ftray.train.engine.state import State
from ftray.train.export import export, solo
from ftray.train.orders import Export
from ftray.train.progress import Progress


def export_state(
    folder: Path,
    spec: Spec,
    data: EncodedDataset,
    *states: State,
    groups: Groups | None = None,
) -> Path:
    """Writes a checkpoint of each state, as after an epoch, the best one first. Returns the model
    folder that is exported from them."""
    checkpoints, target = locate(str(folder / "checkpoints")), folder / "made"
    keeper = CheckpointManager(
        spec.train.checkpoint, checkpoints, writes=True, best_epochs=len(states)
    )
    for number, state in enumerate(states, 1):
        keeper.save(state, Progress(epoch=number, step=number), -number, score=-number)
    keeper.wait()
    order = Export(spec, data, checkpoints, locate(str(target)), "run", groups=groups)
    export(order, solo())
    return target
