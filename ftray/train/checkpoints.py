"""The checkpoints of a run: written in the background, whole or not at all, few of them kept.

A folder step-00000120 holds a state (see state.py), progress.json and, written last, manifest.json
with the size and checksum of each file. What a killed process left half-written has no manifest;
what was damaged afterwards no longer fits it. Both are passed over.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ftray.errors import StorageError, StorageFault
from ftray.spec.sections.training import CheckpointSpec
from ftray.store.files.location import Location
from ftray.store.files.retry import reason
from ftray.store.runs.folder import Fence
from ftray.train.engine import state
from ftray.train.engine.state import State
from ftray.train.progress import Progress

MANIFEST, PROGRESS = "manifest.json", "progress.json"
_SLOW_S = 20.0
"""Seconds of writing after which training does not wait for it with the next checkpoint."""
_PREFIX, _PART = "step-", ".part-"


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint. rank: the higher, the better; below 0 where no evaluation was made."""

    folder: Location
    step: int
    epoch: int
    rank: float
    files: dict[str, list[int]] = field(hash=False)
    """File -> [bytes, CRC-32]."""

    def damage(self) -> str:
        """What is wrong with the files; empty when they are what was written."""
        for name, (size, checksum) in self.files.items():
            file = self.folder / name
            if not file.is_file():
                return f"{name} is missing"
            content = file.read_bytes()
            if len(content) != size:
                return f"{name} has {len(content)} bytes and should have {size}"
            if zlib.crc32(content) != checksum:
                return f"{name} is not what was written"
        return ""


def latest(folder: Location, warn: Callable[[str], None] = lambda line: None) -> Checkpoint | None:
    """The newest checkpoint under `folder` that is whole; `warn` is told of newer ones that are
    not."""
    for checkpoint in reversed(list(_listed(folder, warn))):
        damage = checkpoint.damage()
        if not damage:
            return checkpoint
        warn(f"checkpoint {checkpoint.folder} is damaged ({damage}): the one before it is used")
    return None


def best(folder: Location) -> Location:
    """The folder of the best checkpoint. Raises StorageError when it was damaged."""
    found = list(_listed(folder))
    assert found, "a run that ended well has written a checkpoint"
    checkpoint = max(found, key=lambda c: (c.rank, c.step))
    if damage := checkpoint.damage():
        fix = "restore it, or delete the folder: the run goes on from the checkpoint before it"
        raise StorageError.of(checkpoint.folder.url, None, damage, fix)
    return checkpoint.folder


def copy(source: Location, target: Location) -> None:
    """Put the checkpoints under `source` in place of those under `target`. Raises StorageError."""
    try:
        for old in _listed(target):
            _drop(old)
        for checkpoint in _listed(source):
            with checkpoint.folder.as_local() as local:
                (target / checkpoint.folder.name).upload(local, last=MANIFEST)
    except OSError as error:
        raise _unwritten(target, reason(error)) from None


def read_progress(folder: Path) -> Progress:
    return Progress(**json.loads((folder / PROGRESS).read_text()))


class CheckpointManager:
    """Decides when a run writes a checkpoint, and writes it while the run goes on.

    Only rank 0 has a folder to write to; the others take part in gathering the state. With no
    folder on any rank nothing is kept. `saving` is entered while a checkpoint is written.
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
        """fence: asked before each change of the folder; wanted: whether a checkpoint is due out of
        turn. Raises RunTaken and StorageError."""
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
                    part.delete()  # of a process that was killed

    @property
    def writes(self) -> bool:
        return self._folder is not None

    def due(self, step: int) -> bool:
        """Whether there should be a checkpoint after this step of an epoch; the rank that writes
        asks for all. While a storage that does not answer is tried again, training goes on."""
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
        """Start writing. `values` must not be changed any more. Raises the error of an earlier
        checkpoint that could not be written."""
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
        """Until nothing is being written. Raises StorageError when something could not be."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure:
            raise self._failure.pop()

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """Wait at the end of the block, also when it fails, until the checkpoint is written."""
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
                files = {file.name: _checksum(file) for file in sorted(part.iterdir())}
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
                _drop(checkpoint)


def _unwritten(target: Location, why: str) -> StorageFault:
    fix = "free space or restore access; the same command goes on from the last checkpoint"
    return StorageFault.of(target.url, None, f"not written: {why}", fix)


def _drop(checkpoint: Checkpoint) -> None:
    # The manifest goes first: a folder without it does not exist.
    (checkpoint.folder / MANIFEST).delete()
    checkpoint.folder.delete()


def _local_folder(folder: Location) -> str | None:
    """Where parts of a checkpoint are put together: beside it where that is a local folder."""
    if not folder.is_local:
        return None
    Path(folder.path).mkdir(parents=True, exist_ok=True)
    return folder.path


_BLOCK = 1 << 20
"""Bytes read at once: a checkpoint must not be in memory a second time."""


def _checksum(file: Path) -> list[int]:
    crc, size = 0, 0
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            crc, size = zlib.crc32(block, crc), size + len(block)
    return [size, crc]


def _move(part: Path, target: Location, manifest: str) -> None:
    """Make `part` the folder `target`, its manifest last."""
    if target.exists():
        # The same step, written by a process that was killed, or before it was resumed.
        (target / MANIFEST).delete()
        target.delete()
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
    """The checkpoints that have a manifest, by step."""
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
