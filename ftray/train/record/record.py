"""Records a run while it goes on: its status, metrics.jsonl and log.txt, and a copy in the tracking
services."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ftray.errors import Interrupted, RunTaken, StorageError, find, resumable
from ftray.spec.schema import Spec
from ftray.store.files.location import Location
from ftray.store.root import Root
from ftray.store.runs.environment import FILE, Environment
from ftray.store.runs.folder import INPUTS, SPEC, RunFolder
from ftray.store.runs.notify import notify, sentence
from ftray.store.runs.status import State
from ftray.store.tracking.base import Status
from ftray.store.tracking.trackers import Trackers
from ftray.train.distributed.events import PASSING, Event
from ftray.train.record.lines import Lines
from ftray.train.record.values import in_words, is_number, origin, parameters, splits, track

log = logging.getLogger(__name__)

_LARGEST_FILE = 2**23
"""Bytes of a file up to which a tracking service gets it."""


class Record:
    """A listener that writes the events of a run to metrics.jsonl, with the Unix time under "at",
    and to the tracking services, and a line for the greater ones to log.txt."""

    def __init__(self, run: RunFolder, spec: Spec, tracker: Trackers, lines: Lines) -> None:
        self._run, self._spec, self.tracker, self._lines = run, spec, tracker, lines
        self._told: dict[str, Any] = {}
        self._began = time.monotonic()

    def __call__(self, event: Event) -> None:
        if line := in_words(event):
            self._lines.keep(line)
        if event["kind"] not in PASSING:
            self._run.append_metrics({"at": round(time.time(), 3), **event})
            track(self.tracker.run, event)

    def began(self) -> None:
        """Track where the run comes from: its inputs, its environment and its data."""
        environment, inputs, run = Environment.current(), self._run.inputs, self.tracker.run
        (self._run.location / FILE).write_json(environment.model_dump())
        run.tag({"run_dir": str(self._run.location), "kind": self._run.status.kind})
        run.tag(origin(environment))
        for name in (SPEC, INPUTS, FILE):
            self.attach(self._run.location / name)
        if inputs is None:
            return
        run.tag({"data_digest": inputs.data_digest, "base_commit": inputs.base_commit or None})
        run.tag({"base_digest": inputs.base_digest or None})
        run.data(splits(self._spec, inputs.rows, inputs.data_digest))

    def trained(self, spec: Spec) -> None:
        """Track the parameters of `spec`, which the run trains."""
        self.tracker.run.parameters(parameters(spec))

    def made(self, model: str, folder: Location, metrics: Mapping[str, Mapping[str, Any]]) -> None:
        """Track the exported model, its card, and its metrics on each split."""
        self.tracker.run.tag({"model": model})
        self._lines.keep(f"registered {model}")
        for split, values in metrics.items():
            numbers = {f"model/{split}/{name}": v for name, v in values.items() if is_number(v)}
            if numbers:
                self.tracker.run.log(0, numbers)
        for name in ("README.md", "per_label.csv"):
            self.attach(folder / name)
        name, _, version = model.rpartition(":")
        self._told |= {"model": name, "version": int(version), "metrics": dict(metrics)}

    def attach(self, file: Location) -> None:
        """Give a file to the tracking services, where there is one and it is not large."""
        content = file.read_bytes() if file.is_file() else b""
        if 0 < len(content) <= _LARGEST_FILE:
            self.tracker.run.attach(file.name, content)

    def ended(self, state: State, message: str = "") -> None:
        """Tell the address of `notify` how the run ended."""
        if self._spec.notify is None:
            return
        name, run = self._spec.name, self._run.run_id
        metric = self._spec.train.metric
        found = self._told.get("metrics", {}).get("test", {}).get(metric)
        more = message or (f"test {metric} {found:.4f}" if is_number(found) else "")
        notify(
            self._spec.notify,
            {
                "text": sentence(name, run, state, more),
                "name": name,
                "run": run,
                "kind": self._run.status.kind,
                "state": state,
                "message": message,
                "seconds": round(time.monotonic() - self._began, 1),
                **self._told,
            },
        )


@contextmanager
def recorded(
    root: Root, spec: Spec, run: RunFolder, lines: Lines | None = None
) -> Iterator[Record]:
    """Yield the record of a run of `spec`; `lines`: what the run has said and will say.

    If the block raises, the status of the run becomes `failed`, or `interrupted` after Ctrl-C. If
    the block ends well, the caller sets the status `done`.
    """
    tracker = Trackers(root, spec, run.location, run.status.kind)
    lines = lines or Lines(lambda line: None)
    record = Record(run, spec, tracker, lines)

    def end(state: State, status: Status, error: BaseException) -> None:
        try:
            run.log(f"{state}: {_line(error)}")
            run.close()
            run.set_status(state=state, message=_line(error), resumable=resumable(error))
        except (StorageError, OSError) as unwritten:
            # The status stays `running` without an owner; a later command can resume such a run.
            log.warning("how run %s ended is not written: %s", run.run_id, unwritten)
        tracker.close(status)
        record.ended(state, _line(error))

    try:
        with run.beating(), lines.into(run):
            record.began()
            yield record
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
    record.ended("done")


def _line(error: BaseException) -> str:
    known = find(error)
    return str(known or error or type(error).__name__)
