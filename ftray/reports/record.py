"""Reads the folder of a run for its report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from ftray.models.artifact.manifest import ModelInfo, read_info
from ftray.reports.samples import Samples, read_samples
from ftray.reports.test_rows import TestRows, read_test_rows
from ftray.store.root import MODEL_MANIFEST, Root
from ftray.store.runs.environment import Environment, read_environment
from ftray.store.runs.folder import RunFolder
from ftray.store.runs.inputs import Inputs
from ftray.store.runs.status import RunStatus, State
from ftray.tasks import task_info
from ftray.tasks.info import TaskInfo

Event = dict[str, Any]


@dataclass(frozen=True)
class RunRecord:
    """One run. events: the records of metrics.jsonl, in order; info: the manifest of its model,
    None before there is one; rows: the outcome of the test rows; samples: rows of the data that
    the report shows."""

    run_id: str
    name: str
    folder: str
    state: State
    status: RunStatus
    spec: Mapping[str, Any]
    inputs: Inputs | None
    environment: Environment
    events: Sequence[Event]
    info: ModelInfo | None
    rows: TestRows | None
    samples: Samples

    @classmethod
    def read(cls, root: Root, run: RunFolder) -> RunRecord:
        """Read a run's folder, and the manifest of its model. Raises FtrayError and OSError."""
        model = root.models(run.name) / run.run_id
        status = run.status
        return cls(
            run.run_id,
            run.name,
            str(run.location),
            status.shown,
            status,
            run.spec_tree(),
            run.inputs,
            read_environment(run.location),
            run.metrics(),
            read_info(model) if (model / MODEL_MANIFEST).is_file() else None,
            read_test_rows(run.location),
            read_samples(run.location),
        )

    @property
    def task(self) -> TaskInfo:
        return task_info(self.spec["task"])

    @property
    def metric(self) -> str:
        """The metric that picks checkpoints and trials."""
        found: str = self.spec["train"]["metric"]
        return found

    @property
    def lower_is_better(self) -> bool:
        return self.task.metrics.get(self.metric) == "min"

    @property
    def seconds(self) -> float:
        """Return the seconds from the start of the run to its owner's last heartbeat."""
        started, updated = map(datetime.fromisoformat, (self.status.started, self.status.updated))
        return (updated - started).total_seconds()

    def of_kind(self, *kinds: str) -> list[Event]:
        return [event for event in self.events if event.get("kind") in kinds]

    @cached_property
    def steps(self) -> list[Event]:
        """The optimizer steps in order. A step that a resumed run repeated counts once."""
        return _last_of(self._trained("step"), "step")

    @cached_property
    def epochs(self) -> list[Event]:
        return _last_of(self._trained("epoch"), "epoch")

    def _trained(self, kind: str) -> list[Event]:
        """Return the events of the training; of a sweep without a refit, those of the winner."""
        ranking = [event["ranking"] for event in self.of_kind("searched")]
        if not ranking or self.of_kind("step") or self.spec["tune"].get("refit", True):
            return self.of_kind(kind)
        trials = (event for event in self.of_kind("trial") if event["id"] == ranking[-1][0])
        points = (point for event in trials for point in event.get("points", ()))
        return [point for point in points if point["kind"] == kind]

    @cached_property
    def phases(self) -> list[Event]:
        """The phases of unfreezing: of each, what trains from an epoch on."""
        return _last_of(self.of_kind("start", "phase"), "epoch")

    @property
    def samples_per_second(self) -> float:
        """Samples per second of all steps together; 0 before the first."""
        seconds = sum(step.get("seconds", 0.0) for step in self.steps)
        return sum(step.get("rows", 0) for step in self.steps) / seconds if seconds else 0.0

    @property
    def start(self) -> Event:
        """The first event of the training; empty before it."""
        return next(iter(self.of_kind("start")), {})

    @property
    def baseline(self) -> Event:
        """Metrics on the validation split before the training."""
        return next(iter(self.of_kind("baseline")), {})

    @cached_property
    def best_epoch(self) -> Event | None:
        """The epoch whose checkpoint was exported: the first with the best metric."""
        known = [e for e in self.epochs if isinstance(e.get(self.metric), (int, float))]
        if not known:
            return None
        return (min if self.lower_is_better else max)(known, key=lambda event: event[self.metric])


def _last_of(events: Iterable[Event], key: str) -> list[Event]:
    found = {event[key]: event for event in events}
    return [found[number] for number in sorted(found)]
