"""What is kept of a run while it goes on: status, metrics.jsonl, and its copy in MLflow."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from ftray.errors import Interrupted, RunTaken, StorageError, find, resumable
from ftray.spec.schema import Spec
from ftray.store.root import Root
from ftray.store.runs import RunFolder
from ftray.store.status import State
from ftray.store.tracking import Status, Tracker, flatten
from ftray.train.channel import PASSING, Event, Listener

log = logging.getLogger(__name__)

# Kept in metrics.jsonl but no measurement, so not sent to MLflow.
_NOT_METRICS = {"kind", "step", "steps", "epoch"}


@contextmanager
def recorded(root: Root, spec: Spec, run: RunFolder) -> Iterator[Listener]:
    """Yields a listener that records events. A block that raises leaves the run `failed`, or
    `interrupted` by Ctrl-C; one that ends well leaves it to the caller to say `done`."""
    params = flatten(spec.model_dump(mode="json", exclude={"tune", "serve"}))
    tracker = Tracker(root, run.run_id, spec.name, params, {"run_dir": run.location.url})

    def record(event: Event) -> None:
        if event["kind"] in PASSING:
            return
        run.append_metrics(event)
        numbers = {
            f"{event['kind']}/{name}": value
            for name, value in event.items()
            if name not in _NOT_METRICS and isinstance(value, (int, float))
        }
        if numbers and "step" in event:
            tracker.log(event["step"], numbers)

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
            yield record
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
