"""What is kept of a run while it goes on: status, metrics.jsonl, and its copy in MLflow."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ftray.errors import Interrupted, RunTaken, StorageError, find, masked, resumable
from ftray.spec.schema import Spec
from ftray.store.root import Root
from ftray.store.runs.folder import RunFolder
from ftray.store.runs.status import State
from ftray.store.runs.tracked_run import Status, TrackedRun
from ftray.store.runs.tracking import Tracker, flatten
from ftray.train.distributed.events import PASSING, Event

log = logging.getLogger(__name__)

# Kept in metrics.jsonl but no measurement, so not sent to MLflow.
_NOT_METRICS = {"kind", "step", "steps", "epoch"}


class Record:
    """A listener that keeps the events of a run; `tracker` is the run in MLflow."""

    def __init__(self, run: RunFolder, tracker: Tracker) -> None:
        self._run, self.tracker = run, tracker

    def __call__(self, event: Event) -> None:
        if event["kind"] not in PASSING:
            self._run.append_metrics(event)
            track(self.tracker.run, event)

    def trained(self, spec: Spec) -> None:
        """Tell MLflow what the run trains."""
        self.tracker.run.parameters(parameters(spec))

    def made(self, model: str, metrics: Mapping[str, Mapping[str, Any]]) -> None:
        """Tell MLflow of the model that the run made, and of its metrics on each split."""
        self.tracker.run.tag({"model": model})
        for split, values in metrics.items():
            track(self.tracker.run, {**values, "kind": split, "step": 0})


def parameters(spec: Spec) -> dict[str, Any]:
    """All that decides what a training comes to, by dotted path."""
    return flatten(masked(spec.model_dump(mode="json", exclude={"tune", "serve"})))


def track(run: TrackedRun, event: Event) -> None:
    """Send the numbers of an event that belongs to a step."""
    numbers = {
        f"{event['kind']}/{name}": value
        for name, value in event.items()
        if name not in _NOT_METRICS and isinstance(value, (int, float))
    }
    if numbers and "step" in event:
        run.log(event["step"], numbers)


@contextmanager
def recorded(root: Root, name: str, run: RunFolder) -> Iterator[Record]:
    """Yields the record of a run of that name. A block that raises leaves the run `failed`, or
    `interrupted` by Ctrl-C; one that ends well leaves it to the caller to say `done`."""
    tracker = Tracker(root, run.run_id, name)
    tracker.run.tag({"run_dir": str(run.location)})

    def end(state: State, status: Status, error: BaseException) -> None:
        try:
            run.close()
            run.set_status(state=state, message=_line(error), resumable=resumable(error))
        except (StorageError, OSError) as unwritten:
            # The run then stays `running` without an owner, and is gone on with as such.
            log.warning("how run %s ended is not written: %s", run.run_id, unwritten)
        tracker.close(status)

    try:
        with run.beating():
            yield Record(run, tracker)
        run.close()
    except RunTaken:
        raise  # what is on record is the other process's
    except (KeyboardInterrupt, Interrupted) as error:
        end("interrupted", "KILLED", error)
        raise
    except BaseException as error:
        end("failed", "FAILED", error)
        raise
    tracker.close("FINISHED")


def _line(error: BaseException) -> str:
    known = find(error)
    return str(known or error or type(error).__name__)
