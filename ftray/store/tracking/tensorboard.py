"""Runs as TensorBoard's event files, in the run's folder: `tensorboard --logdir FOLDER`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftray.store.tracking.base import Status, TrackedRun, Tracker, given

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"


class TensorboardRun(TrackedRun):
    """One run, or one trial, in a folder of event files of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: SummaryWriter | None = None
        self._ended = False

    def tag(self, tags: Mapping[str, Any]) -> None:
        self._text("tag", given(tags))

    def parameters(self, params: Mapping[str, Any]) -> None:
        self._text("parameter", given(params))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._open().add_scalar(name, value, step)

    def attach(self, name: str, content: bytes) -> None:
        """Nothing to do: the run's folder has the file."""

    def end(self, status: Status) -> None:
        if not self._ended:
            self._text("tag", {"status": status})
            self._open().close()
            self._ended = True

    def _text(self, kind: str, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            self._open().add_text(f"{kind}/{name}", str(value))

    def _open(self) -> SummaryWriter:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # an extra

            self._writer = SummaryWriter(str(self._folder))
        return self._writer


class TensorboardTracker(Tracker):
    """A run's folder of event files, with a folder for each trial."""

    def __init__(self, run_folder: Path) -> None:
        self._folder = run_folder / FOLDER
        self.run = TensorboardRun(self._folder / "run")
        self._children: list[TensorboardRun] = []

    def child(self, name: str) -> TensorboardRun:
        self._children.append(TensorboardRun(self._folder / name.replace(" ", "-")))
        return self._children[-1]

    def close(self, status: Status = "FINISHED") -> None:
        for child in self._children:
            child.end("KILLED")
        self.run.end(status)
