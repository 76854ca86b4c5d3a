"""The checkpoints of a run: written atomically in the background; old ones are deleted.

A folder such as step-00000120 holds a state (see state.py), progress.json, and manifest.json with
the checksum of each file, written last. A checkpoint that a killed process left incomplete
has no manifest; files damaged later do not match their manifest. Readers skip both.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ftray.errors import StorageError, StorageFault
from ftray.spec.sections.training import CheckpointSpec
from ftray.store.files import checksum
from ftray.store.files.location import Location
from ftray.store.files.retry import reason
from ftray.store.runs.folder import Fence
from ftray.train.engine import state
from ftray.train.engine.state import State
from ftray.train.progress import Progress

MANIFEST, PROGRESS = "manifest.json", "progress.json"
_SLOW_S = 20.0
"""If a write takes longer than these seconds, training skips due checkpoints until it ends."""
_PREFIX, _PART = "step-", ".part-"


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

    def damage(self) -> str:
        """Return a description of the first damaged file; empty if all files match the manifest."""
        with self.folder.as_local() as local:
            return checksum.damage(local, self.files)


def latest(folder: Location, warn: Callable[[str], None] = lambda line: None) -> Checkpoint | None:
    """Return the newest undamaged checkpoint under `folder`, or None. `warn` receives a line for
    each newer checkpoint that is damaged or incomplete."""
    for checkpoint in reversed(list(_listed(folder, warn))):
        damage = checkpoint.damage()
        if not damage:
            return checkpoint
        warn(f"checkpoint {checkpoint.folder} is damaged ({damage}): the one before it is used")
    return None


def best(folder: Location) -> Location:
    """Return the folder of the checkpoint with the highest score. Raises StorageError if this
    checkpoint is damaged."""
    found = list(_listed(folder))
    assert found, "a run that ended well has written a checkpoint"
    checkpoint = max(found, key=lambda c: (c.rank, c.step))
    if damage := checkpoint.damage():
        fix = "restore it, or delete the folder: the run goes on from the checkpoint before it"
        raise StorageError.of(checkpoint.folder.url, None, damage, fix)
    return checkpoint.folder


def copy(source: Location, target: Location) -> None:
    """Replace the checkpoints under `target` by copies of those under `source`. Raises
    StorageError."""
    try:
        for old in _listed(target):
            old.folder.delete(first=MANIFEST)
        for checkpoint in _listed(source):
            with checkpoint.folder.as_local() as local:
                (target / checkpoint.folder.name).upload(local, last=MANIFEST)
    except OSError as error:
        raise _unwritten(target, reason(error)) from None


def read_progress(folder: Path) -> Progress:
    return Progress(**json.loads((folder / PROGRESS).read_text()))


class CheckpointManager:
    """Decides when a run writes a checkpoint, and writes it in the background while training
    continues.

    Only rank 0 writes; the other ranks take part in gathering the state. Without a folder on any
    rank, no checkpoints are written. The writing thread enters the context `saving` while it
    writes.
    """

    def __init__(
        self,
        spec: CheckpointSpec,
        folder: Location | None,
        writes: bool,
        saving: Callable[[], AbstractContextManager[None]] = nullcontext,
        fence: Fence | None = None,
        wanted: Callable[[], bool] = lambda: False,
    ) -> None:
        """fence: checked before each change of the folder, raises if another process took the run;
        wanted: returns whether a checkpoint is due outside of the schedule. Raises RunTaken and
        StorageError."""
        self.keeps = folder is not None
        self._spec = spec
        self._saving = saving
        self._folder = folder if writes else None
        self._saved = time.monotonic()
        self._thread: threading.Thread | None = None
        self._failure: list[Exception] = []
        self._fence = fence
        self._wanted = wanted
        if self._folder is not None:
            self._check()
            for part in self._folder.children():
                if part.name.startswith(_PART):
                    part.delete()  # a killed process left this incomplete folder

    @property
    def writes(self) -> bool:
        return self._folder is not None

    def due(self, step: int) -> bool:
        """Return whether a checkpoint is due after this step. Only the rank that writes decides; on
        other ranks the answer is False. While an earlier write takes long, for instance because a
        slow storage is retried, no checkpoint is due and training continues."""
        if not self.writes or self._is_slow():
            return False
        steps, minutes = self._spec.every_steps, self._spec.every_minutes
        by_step = steps is not None and step % steps == 0
        by_time = minutes is not None and time.monotonic() - self._saved > 60 * minutes
        return self._wanted() or by_step or by_time

    def _is_slow(self) -> bool:
        writing = self._thread is not None and self._thread.is_alive()
        return writing and time.monotonic() - self._saved > _SLOW_S

    def save(self, values: State, progress: Progress, rank: float) -> None:
        """Start to write a checkpoint with the score `rank`, after an earlier write has ended. The
        caller must not change `values` any more. Raises the error of an earlier write."""
        self._saved = time.monotonic()
        if self._folder is None:
            return
        self.wait()
        content = json.dumps(progress.to_json())
        described = {"step": progress.step, "epoch": progress.epoch, "rank": rank}
        self._thread = threading.Thread(
            target=self._write, args=(values, content, described), name="ftray-checkpoint"
        )
        self._thread.start()

    def wait(self) -> None:
        """Wait until no checkpoint is being written. Raises StorageError if a write failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure:
            raise self._failure.pop()

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """Wait at the end of the block, also after an exception, until the checkpoint is
        written."""
        try:
            yield
        finally:
            if self._thread is not None:
                self._thread.join()

    def _write(self, values: State, progress: str, described: dict[str, Any]) -> None:
        assert self._folder is not None
        target = self._folder / f"{_PREFIX}{described['step']:08d}"
        try:
            beside = _local_folder(self._folder)
            with self._saving(), tempfile.TemporaryDirectory(prefix=_PART, dir=beside) as name:
                part = Path(name)
                state.write(values, part)
                (part / PROGRESS).write_text(progress)
                files = checksum.of_files(part, sorted(file.name for file in part.iterdir()))
                manifest = json.dumps({**described, "files": files}, indent=2)
                self._check()
                _move(part, target, manifest)
            self._delete_old()
        except OSError as error:
            self._failure.append(_unwritten(target, reason(error)))
        except SafetensorError as error:
            self._failure.append(_unwritten(target, str(error)))
        except Exception as error:  # noqa: BLE001 - raised by `wait`, in the thread that waits
            self._failure.append(error)

    def _check(self) -> None:
        if self._fence is not None:
            self._fence.check()

    def _delete_old(self) -> None:
        assert self._folder is not None
        found = list(_listed(self._folder))
        newest = sorted(found, key=lambda c: c.step)[-self._spec.keep :]
        best_one = max(found, key=lambda c: (c.rank, c.step))
        for checkpoint in found:
            if checkpoint not in newest and checkpoint is not best_one:
                checkpoint.folder.delete(first=MANIFEST)


def _unwritten(target: Location, why: str) -> StorageFault:
    fix = "free space or restore access; the same command goes on from the last checkpoint"
    return StorageFault.of(target.url, None, f"not written: {why}", fix)


def _local_folder(folder: Location) -> str | None:
    """Return the folder for temporary files of a checkpoint: the folder of the checkpoints where it
    is local, else None (the system's temporary folder)."""
    if not folder.is_local:
        return None
    Path(folder.path).mkdir(parents=True, exist_ok=True)
    return folder.path


def _move(part: Path, target: Location, manifest: str) -> None:
    """Move the files of `part` to the folder `target`, then write the manifest."""
    if target.exists():
        # The run wrote a checkpoint of this step before it was killed or interrupted, and resumed.
        target.delete(first=MANIFEST)
    if target.is_local:
        Path(target.path).mkdir(parents=True)
        for file in part.iterdir():
            file.rename(Path(target.path) / file.name)
    else:
        target.upload_files({file.name: file for file in part.iterdir()})
    (target / MANIFEST).write_text(manifest)


def _listed(
    folder: Location, warn: Callable[[str], None] = lambda line: None
) -> Iterator[Checkpoint]:
    """Yield the checkpoints that have a readable manifest, in the order of their steps."""
    for child in folder.children():
        if not child.name.startswith(_PREFIX):
            continue
        manifest = child / MANIFEST
        if not manifest.is_file():
            warn(f"checkpoint {child} was not written to its end: the one before it is used")
            continue
        try:
            yield Checkpoint(child, **manifest.read_json())
        except (ValueError, TypeError):
            warn(f"checkpoint {child} has a damaged manifest: the one before it is used")
