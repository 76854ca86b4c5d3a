"""Writes the checkpoints of a run atomically in the background, and deletes old ones."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ftray.spec.sections.training import CheckpointSpec
from ftray.store.files import checksum
from ftray.store.files.location import Location
from ftray.store.files.retry import reason
from ftray.store.runs.folder import Fence
from ftray.train.checkpoint.parts import WHOLE, Parts
from ftray.train.checkpoint.stored import MANIFEST, PREFIX, PROGRESS, kept, listed, unwritten
from ftray.train.engine import state
from ftray.train.engine.state import NONE, Share, State
from ftray.train.progress import Progress

_SLOW_S = 20.0
"""If a write takes longer than these seconds, training skips due checkpoints until it ends."""
_PART = ".part-"


class CheckpointManager:
    """Decides when a run writes a checkpoint, and writes it in the background while training
    continues.

    Rank 0 writes, or every rank its part; all ranks take part in gathering the state. Without a
    folder on any rank, no checkpoints are written. The writing thread enters the context `saving`
    while it writes.
    """

    def __init__(
        self,
        spec: CheckpointSpec,
        folder: Location | None,
        writes: bool,
        saving: Callable[[], AbstractContextManager[None]] = nullcontext,
        fence: Fence | None = None,
        wanted: Callable[[], bool] = lambda: False,
        parts: Parts = WHOLE,
        best_epochs: int = 1,
    ) -> None:
        """writes: whether this rank writes; parts: which part. fence: checked before each change
        of the folder, raises if another process took the run; wanted: returns whether a checkpoint
        is due outside of the schedule; best_epochs: how many of the best epochs' checkpoints are
        kept. Raises RunTaken and StorageError."""
        self.keeps = folder is not None
        self._spec = spec
        self._saving = saving
        self._folder = folder if writes else None
        self._saved = time.monotonic()
        self._thread: threading.Thread | None = None
        self._failure: list[Exception] = []
        self._fence = fence
        self._wanted, self._best_epochs = wanted, best_epochs
        self._parts, self._number, self._ended = parts, 0, threading.Event()
        if self._folder is not None and not parts.part:
            self._check()
            for part in self._folder.children():
                if part.name.startswith(_PART):
                    part.delete()  # a killed process left this incomplete folder

    @property
    def share(self) -> Share:
        """The share of the state that this rank writes."""
        return NONE if self._folder is None else Share(self._parts.part, self._parts.count)

    def due(self, step: int) -> bool:
        """Return whether a checkpoint is due after this step. Only rank 0 decides; on other ranks
        the answer is False. While an earlier write takes long, for instance because a
        slow storage is retried, no checkpoint is due and training continues."""
        if self._folder is None or self._parts.part or self._is_slow():
            return False
        steps, minutes = self._spec.every_steps, self._spec.every_minutes
        by_step = steps is not None and step % steps == 0
        by_time = minutes is not None and time.monotonic() - self._saved > 60 * minutes
        return self._wanted() or by_step or by_time

    def _is_slow(self) -> bool:
        writing = self._thread is not None and self._thread.is_alive()
        return writing and time.monotonic() - self._saved > _SLOW_S

    def save(
        self, values: State, progress: Progress, rank: float, score: float | None = None
    ) -> None:
        """Start to write a checkpoint, after an earlier write has ended. rank, score: as
        `Checkpoint`. The caller must not change `values` any more. Raises the error of an earlier
        write."""
        self._saved = time.monotonic()
        if self._folder is None:
            return
        self.wait()
        self._number += 1
        content = json.dumps(progress.to_json())
        at = {"step": progress.step, "epoch": progress.epoch}
        described = {**at, "rank": rank, "score": score}
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
        """Wait at the end of the block until the checkpoint is written. After an exception, do not
        wait for the parts of other ranks, which may have ended."""
        try:
            yield
        except BaseException:
            self._ended.set()
            raise
        finally:
            if self._thread is not None:
                self._thread.join()

    def _write(self, values: State, progress: str, described: dict[str, Any]) -> None:
        assert self._folder is not None
        target = self._folder / f"{PREFIX}{described['step']:08d}"
        try:
            beside = _local_folder(self._folder)
            with self._saving(), tempfile.TemporaryDirectory(prefix=_PART, dir=beside) as name:
                part = Path(name)
                state.write(values, part, self._parts.suffix)
                if self._parts.part:
                    self._write_part(part, target)
                else:
                    (part / PROGRESS).write_text(progress)
                    self._write_whole(part, target, described)
        except OSError as error:
            self._failure.append(unwritten(target, reason(error)))
        except SafetensorError as error:
            self._failure.append(unwritten(target, str(error)))
        except Exception as error:  # noqa: BLE001 - raised by `wait`, in the thread that waits
            self._failure.append(error)

    def _write_part(self, part: Path, target: Location) -> None:
        files = _checksums(part)
        self._check()
        _move(part, target)
        self._parts.leave(target, self._number, files)

    def _write_whole(self, part: Path, target: Location, described: dict[str, Any]) -> None:
        """Write the part of rank 0, and the manifest after the parts of all others."""
        files = _checksums(part)
        self._check()
        # The run may have written a checkpoint of this step before it was killed and resumed.
        (target / MANIFEST).delete()
        _move(part, target)
        files = self._parts.gathered(target, self._number, files, self._ended)
        for name in set(target.files()) - files.keys():
            # Another rank may have begun to write the checkpoint of this step again.
            if not self._parts.leaves(name):
                (target / name).delete()
        (target / MANIFEST).write_text(json.dumps({**described, "files": files}, indent=2))
        self._delete_old()

    def _check(self) -> None:
        if self._fence is not None:
            self._fence.check()

    def _delete_old(self) -> None:
        assert self._folder is not None
        found = list(listed(self._folder))
        stay = kept(found, self._spec.keep, self._best_epochs)
        for checkpoint in found:
            if checkpoint.step not in stay:
                checkpoint.folder.delete(first=MANIFEST)


def _local_folder(folder: Location) -> str | None:
    """Return the folder for temporary files of a checkpoint: the folder of the checkpoints where it
    is local, else None (the system's temporary folder)."""
    if not folder.is_local:
        return None
    Path(folder.path).mkdir(parents=True, exist_ok=True)
    return folder.path


def _checksums(part: Path) -> dict[str, str]:
    return checksum.of_files(part, sorted(file.name for file in part.iterdir()))


def _move(part: Path, target: Location) -> None:
    """Move the files of `part` into the folder `target`."""
    if target.is_local:
        Path(target.path).mkdir(parents=True, exist_ok=True)
        for file in part.iterdir():
            file.replace(Path(target.path) / file.name)
    else:
        target.upload_files({file.name: file for file in part.iterdir()})
