"""Chooses the tracking services of a run, and passes what is tracked to each of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from ftray.errors import SpecError, shorten, without_passwords
from ftray.spec.schema import Spec
from ftray.store.files.location import Location
from ftray.store.root import Root
from ftray.store.tracking.base import Status, TrackedData, TrackedRun, Tracker
from ftray.store.tracking.mlflow_tracker import MlflowTracker
from ftray.store.tracking.tensorboard import TensorboardTracker
from ftray.store.tracking.wandb import WandbTracker

R = TypeVar("R")

log = logging.getLogger(__name__)

_TENSORBOARD, _WANDB = "track.tensorboard", "track.wandb"


def check_tracking(spec: Spec, root: Root) -> None:
    """Raise SpecError where a service that the spec asks for cannot track a run on this machine."""
    if spec.track.tensorboard:
        _check_installed(_TENSORBOARD, "tensorboard")
        if not root.location.is_local:
            fix = "leave it out, or use a local storage root"
            raise SpecError.of(_TENSORBOARD, True, f"writes to no {root}", fix)
    if spec.track.wandb is not None:
        _check_installed(_WANDB, "wandb")


def _check_installed(key: str, package: str) -> None:
    if find_spec(package) is None:
        fix = f"get it by pip install 'ftray[{package}]'"
        raise SpecError.of(key, None, f"needs the package {package}, which is not installed", fix)


class Trackers(Tracker):
    """The tracking services of one run. A service that fails is named once and left out from then
    on: no service ends a run.

    folder: the run's.
    """

    def __init__(self, root: Root, spec: Spec, folder: Location, kind: str) -> None:
        self.mlflow = MlflowTracker(root, folder.name, spec.name)
        self._services: dict[str, Tracker] = {"MLflow": self.mlflow}
        if spec.track.tensorboard:
            self._add(_TENSORBOARD, TensorboardTracker, Path(folder.path))
        if wandb := spec.track.wandb:
            project = wandb.project or spec.name
            self._add(_WANDB, WandbTracker, project, wandb.entity, folder.name, kind)
        self.run = _Runs({name: each.run for name, each in self._services.items()})

    def child(self, name: str) -> TrackedRun:
        found = {s: _attempt(s, tracker.child, name) for s, tracker in self._services.items()}
        return _Runs({service: run for service, run in found.items() if run is not None})

    def close(self, status: Status = "FINISHED") -> None:
        for service, tracker in self._services.items():
            _attempt(service, tracker.close, status)

    def _add(self, service: str, start: Callable[..., Tracker], *args: Any) -> None:
        tracker = _attempt(service, start, *args)
        if tracker is not None:
            self._services[service] = tracker


class _Runs(TrackedRun):
    """One run in several services."""

    def __init__(self, runs: dict[str, TrackedRun]) -> None:
        self._runs = runs

    def tag(self, tags: Mapping[str, Any]) -> None:
        self._each("tag", tags)

    def parameters(self, params: Mapping[str, Any]) -> None:
        self._each("parameters", params)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._each("log", step, metrics)

    def data(self, splits: Sequence[TrackedData]) -> None:
        self._each("data", splits)

    def attach(self, name: str, content: bytes) -> None:
        self._each("attach", name, content)

    def end(self, status: Status) -> None:
        self._each("end", status)

    def _each(self, method: str, *args: Any) -> None:
        for service, run in list(self._runs.items()):
            if _attempt(service, self._done, run, method, *args) is None:
                del self._runs[service]

    @staticmethod
    def _done(run: TrackedRun, method: str, *args: Any) -> bool:
        getattr(run, method)(*args)
        return True


def _attempt(service: str, act: Callable[..., R], *args: Any) -> R | None:
    """Return the result of `act`; where it fails, name the service and the reason."""
    try:
        return act(*args)
    except Exception as error:  # noqa: BLE001 - each service raises errors of its own
        said = shorten(without_passwords(str(error).partition("\n")[0]))
        log.warning("%s: %s. The run goes on without it.", service, said or type(error).__name__)
        return None
