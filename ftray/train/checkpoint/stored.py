"""The checkpoints of a run in its folder.

A folder such as step-00000120 holds a state (see engine/state.py), progress.json, and manifest.json
with the checksum of each file, written last. A checkpoint that a killed process left
incomplete has no manifest; files damaged later do not match their manifest. Readers skip both.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ftray.errors import StorageError, StorageFault
from ftray.store.files import checksum
from ftray.store.files.location import Location
from ftray.store.files.retry import reason
from ftray.train.progress import Progress

MANIFEST, PROGRESS = "manifest.json", "progress.json"
PREFIX = "step-"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint with a manifest. rank: the checkpoint score, higher is better; below 0 for a
    checkpoint without an evaluation or without an improvement."""

    folder: Location
    step: int
    epoch: int
    rank: float
    files: dict[str, str] = field(hash=False)
    """File name -> checksum."""
    score: float | None = None
    """The value of train.metric at the end of the epoch, higher is better; None elsewhere."""

    def damage(self) -> str:
        """Return a description of the first damaged file; empty if all files match the manifest."""
        with self.folder.as_local() as local:
            return checksum.damage(local, self.files)


def latest(folder: Location, warn: Callable[[str], None] = lambda line: None) -> Checkpoint | None:
    """Return the newest undamaged checkpoint under `folder`, or None. `warn` receives a line for
    each newer checkpoint that is damaged or incomplete."""
    for checkpoint in reversed(list(listed(folder, warn))):
        damage = checkpoint.damage()
        if not damage:
            return checkpoint
        warn(f"checkpoint {checkpoint.folder} is damaged ({damage}): the one before it is used")
    return None


def best(folder: Location) -> Location:
    """Return the folder of the checkpoint with the highest score. Raises StorageError if this
    checkpoint is damaged."""
    found = list(listed(folder))
    assert found, "a run that ended well has written a checkpoint"
    checkpoint = max(found, key=lambda c: (c.rank, c.step))
    if damage := checkpoint.damage():
        fix = "restore it, or delete the folder: the run goes on from the checkpoint before it"
        raise StorageError.of(checkpoint.folder.url, None, damage, fix)
    return checkpoint.folder


def best_epochs(folder: Location, count: int) -> list[Checkpoint]:
    """Return the checkpoints after the `count` best epochs, the best one first. Leaves out damaged
    ones. Raises StorageError if the best one is damaged."""
    chosen = best(folder)
    found = list(listed(folder))
    first = next(c for c in found if c.folder.url == chosen.url)
    others = [c for c in found if c is not first and c.score is not None and not c.damage()]
    return [first, *sorted(others, key=_by_score, reverse=True)[: count - 1]]


def _by_score(checkpoint: Checkpoint) -> tuple[float, int]:
    score = checkpoint.score
    return (-math.inf if score is None else score, -checkpoint.step)


def kept(found: Sequence[Checkpoint], newest: int, best_count: int) -> set[int]:
    """Return the steps of the checkpoints that stay: the newest ones, the best one, and those after
    the best `best_count` epochs."""
    by_step = sorted(found, key=lambda c: c.step)
    scored = sorted((c for c in found if c.score is not None), key=_by_score)
    first = max(found, key=lambda c: (c.rank, c.step))
    return {c.step for c in (*by_step[-newest:], first, *scored[-best_count:])}


def copy(source: Location, target: Location) -> None:
    """Replace the checkpoints under `target` by copies of those under `source`. Raises
    StorageError."""
    try:
        for old in listed(target):
            old.folder.delete(first=MANIFEST)
        for checkpoint in listed(source):
            with checkpoint.folder.as_local() as local:
                (target / checkpoint.folder.name).upload(local, last=MANIFEST)
    except OSError as error:
        raise unwritten(target, reason(error)) from None


def read_progress(folder: Path) -> Progress:
    return Progress(**json.loads((folder / PROGRESS).read_text()))


def unwritten(target: Location, why: str) -> StorageFault:
    fix = "free space or restore access; the same command goes on from the last checkpoint"
    return StorageFault.of(target.url, None, f"not written: {why}", fix)


def listed(
    folder: Location, warn: Callable[[str], None] = lambda line: None
) -> Iterator[Checkpoint]:
    """Yield the checkpoints that have a readable manifest, in the order of their steps."""
    for child in folder.children():
        if not child.name.startswith(PREFIX):
            continue
        manifest = child / MANIFEST
        if not manifest.is_file():
            warn(f"checkpoint {child} was not written to its end: the one before it is used")
            continue
        try:
            yield Checkpoint(child, **manifest.read_json())
        except (ValueError, TypeError):
            warn(f"checkpoint {child} has a damaged manifest: the one before it is used")
