"""Records a run while it goes on: its status, metrics.jsonl, and a copy of both in MLflow."""

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

# Fields of events in metrics.jsonl that are no measurements, so they are not sent to MLflow.
_NOT_METRICS = {"kind", "step", "steps", "epoch"}


class Record:
    """A listener that writes the events of a run to metrics.jsonl and to MLflow; `tracker` is the
    run in MLflow."""

    def __init__(self, run: RunFolder, tracker: Tracker) -> None:
        self._run, self.tracker = run, tracker

    def __call__(self, event: Event) -> None:
        if event["kind"] not in PASSING:
            self._run.append_metrics(event)
            track(self.tracker.run, event)

    def trained(self, spec: Spec) -> None:
        """Log the parameters of `spec` to MLflow."""
        self.tracker.run.parameters(parameters(spec))

    def made(self, model: str, metrics: Mapping[str, Mapping[str, Any]]) -> None:
        """Log the exported model to MLflow, and its metrics on each split."""
        self.tracker.run.tag({"model": model})
        for split, values in metrics.items():
            track(self.tracker.run, {**values, "kind": split, "step": 0})


def parameters(spec: Spec) -> dict[str, Any]:
    """Return the values of the spec that influence the result of a training, by dotted path."""
    return flatten(masked(spec.model_dump(mode="json", exclude={"tune", "serve"})))


def track(run: TrackedRun, event: Event) -> None:
    """Log the numbers of an event to MLflow, if the event belongs to a step."""
    numbers = {
        f"{event['kind']}/{name}": value
        for name, value in event.items()
        if name not in _NOT_METRICS and isinstance(value, (int, float))
    }
    if numbers and "step" in event:
        run.log(event["step"], numbers)


@contextmanager
def recorded(root: Root, name: str, run: RunFolder) -> Iterator[Record]:
    """Yield the record of the run `run` of the model `name`.

    If the block raises, the status of the run becomes `failed`, or `interrupted` after Ctrl-C. If
    the block ends well, the caller sets the status `done`.
    """
    tracker = Tracker(root, run.run_id, name)
    tracker.run.tag({"run_dir": str(run.location)})

    def end(state: State, status: Status, error: BaseException) -> None:
        try:
            run.close()
            run.set_status(state=state, message=_line(error), resumable=resumable(error))
        except (StorageError, OSError) as unwritten:
            # The status stays `running` without an owner; a later command can resume such a run.
            log.warning("how run %s ended is not written: %s", run.run_id, unwritten)
        tracker.close(status)

    try:
        with run.beating():
            yield Record(run, tracker)
        run.close()
    except RunTaken:
        raise  # another process owns the run, so leave its status alone
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
