"""The run folder, runs/NAME/RUN_ID: the resolved spec, the run's status, and its metrics.

status.json is the folder's manifest, written after the spec. The owner (the process that drives the
run) writes status.json every few seconds, each time only over the version that it wrote before.
Once another process has taken the run over (see claim.py), the storage refuses the former owner's
write, and from then on the former owner writes nothing.
"""

from __future__ import annotations

import logging
import re
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import yaml

from ftray.errors import RegistryError, RunTaken, StorageError, masked, without_passwords
from ftray.spec.load import dump
from ftray.spec.schema import Spec
from ftray.store.files.conditional import Version
from ftray.store.files.document import open_document
from ftray.store.files.location import Location
from ftray.store.root import Root
from ftray.store.runs.inputs import Inputs, read_inputs
from ftray.store.runs.metrics import LineLog, MetricsLog
from ftray.store.runs.owner import BEAT_S
from ftray.store.runs.status import STATUS, Kind, RunStatus, Seen, State, read_status, taken

log = logging.getLogger(__name__)

SPEC, METRICS, INPUTS, LOG = "spec.yaml", "metrics.jsonl", "inputs.json", "log.txt"
CHECKPOINTS = "checkpoints"
WORKING = ("ray-train", "trials", "kept")
"""Folders that serve a run until its end: the files of Ray Train, of Ray Tune and of trials."""
RUN_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}")


class RunFolder:
    """One run's folder. Only the owner writes into it: one process, through one RunFolder that the
    process's threads may share."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self._lock = threading.RLock()
        self._metrics = MetricsLog(location / METRICS, self.set_status)
        self._log = LineLog(location / LOG, self.set_status)
        self._document = open_document(location / STATUS)
        self._held: Seen | None = None
        """The status that this process last wrote as the owner."""
        self._heard = 0.0
        """When this process last wrote the status, on a clock that runs on while the process or the
        machine is suspended."""
        self._loss: RunTaken | None = None

    @classmethod
    def create(
        cls,
        root: Root,
        spec: Spec,
        run_id: str,
        kind: Kind = "train",
        inputs: Inputs | None = None,
    ) -> RunFolder:
        """Make a folder whose run is `running` and owned by this process. Raises StorageError."""
        run = cls(root.runs(spec.name) / run_id)
        try:
            if not run.location.is_local:
                run.location.fs.create_dir(run.location.path, recursive=True)
            if inputs is not None:
                (run.location / INPUTS).write_json(inputs.to_json())
            run.write_spec(spec)
        except OSError as error:
            raise _unwritable(run.location, error) from None
        status = RunStatus.begun(kind)
        assert run._write(status, Version(None)), "nobody else knows this run id"
        return run

    @property
    def run_id(self) -> str:
        return self.location.name

    @property
    def name(self) -> str:
        return self.location.path.rsplit("/", 2)[-2]

    @property
    def status(self) -> RunStatus:
        """The content of status.json. Raises StorageError when the file cannot be read."""
        return self.look().status

    @property
    def state(self) -> State:
        """The state in status.json, but `interrupted` for a `running` run whose owner is dead."""
        return self.status.shown

    def look(self) -> Seen:
        """Read the present status. Raises StorageError when status.json cannot be read."""
        return read_status(self._document, self.location / STATUS)

    @property
    def inputs(self) -> Inputs | None:
        """The inputs that the run began with; None for a run of an older ftray. Raises
        StorageError."""
        return read_inputs(self.location / INPUTS)

    def spec_tree(self) -> dict[str, Any]:
        """Return the resolved spec as plain values: an older ftray's spec may be no valid Spec
        now."""
        return yaml.safe_load((self.location / SPEC).read_bytes())

    def write_spec(self, spec: Spec) -> None:
        """Keep the spec that the run trains, without passwords: people and reports read the
        file."""
        shown = Spec.model_validate(masked(spec.model_dump(mode="json")))
        (self.location / SPEC).write_text(dump(shown))

    def set_status(self, **changes: Any) -> RunStatus:
        """Change fields of the status, such as state="done" or message="…"; also a sign of life.

        Works only for a run that this object created or claimed. Raises RunTaken when another
        process has taken the run over, and StorageError.
        """
        with self._lock:
            assert self._held is not None, "only the owner of a run writes its status"
            if self._loss is not None:
                raise self._loss
            status = self._held.status.changed(**changes)
            if not self._write(status, self._held.version):
                self._loss = self._taken()
                raise self._loss
            return status

    def claim(self, seen: Seen) -> bool:
        """Make this process the owner; False where the status has changed since it was `seen`."""
        with self._lock:
            return self._write(seen.status.taken_over(), seen.version)

    @property
    def fence(self) -> Fence:
        """The fence with which processes that work for this owner check that it still owns the
        run."""
        with self._lock:
            assert self._held is not None, "only the owner of a run has others work on it"
            return Fence(self.location, self._held.status.generation)

    def check_owned(self) -> None:
        """Raise RunTaken when another process has taken the run over.

        Reads the storage only where this process has given no sign of life for half of its lease,
        as a suspended process: before that nobody can have taken the run over."""
        if self._loss is not None:
            raise self._loss
        if self._held is not None and _clock() - self._heard > self._held.status.lease / 2:
            # A storage that does not answer cannot tell of a new owner, nor does it accept a write.
            with suppress(StorageError):
                self.set_status()

    @contextmanager
    def beating(self, every: float | None = None) -> Iterator[None]:
        """Give a sign of life every `every` seconds while the block runs."""
        over, pause = threading.Event(), BEAT_S if every is None else every
        thread = threading.Thread(target=self._beat, args=(over, pause), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Add a record to metrics.jsonl. Under a remote root the record may be held back until
        `close`. Raises RunTaken when another process has taken the run over."""
        self.check_owned()
        self._metrics.append(record)

    def metrics(self) -> list[dict[str, Any]]:
        """The records of metrics.jsonl."""
        return self._metrics.read()

    def log(self, line: str, at: datetime | None = None) -> None:
        """Add a line to log.txt, with its UTC time. Raises RunTaken as `append_metrics` does."""
        self.check_owned()
        said = " ".join(without_passwords(line).split())
        self._log.add(f"{at or datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {said}\n".encode())

    def close(self) -> None:
        """Write the records and lines that are still held back."""
        self._metrics.close()
        self._log.close()

    def _write(self, status: RunStatus, after: Version) -> bool:
        asked = _clock()
        version = self._document.write(status.to_bytes(), after)
        if version is None:
            return False
        self._held, self._heard = Seen(status, version), asked
        return True

    def _taken(self) -> RunTaken:
        if not (self.location / STATUS).is_file():
            fix = "run the same command to begin anew"
            return RunTaken.of("run", self.run_id, "was deleted while it was driven", fix)
        return taken(self.run_id, self.status)

    def _beat(self, over: threading.Event, every: float) -> None:
        warned = False
        while not over.wait(every):
            try:
                self.set_status()
            except RunTaken:
                return  # `check_owned` raises it in the owner's own thread
            except StorageError as error:
                if not warned:
                    log.warning("%s", error)
                warned = True


@dataclass(frozen=True)
class Fence:
    """The check that a process working for the owner of a run makes before it writes into the run's
    folder. generation: the generation of the owner."""

    run: Location
    generation: int

    def check(self) -> None:
        """Raise RunTaken when another process owns the run now, and StorageError."""
        status = RunFolder(self.run).status
        if status.generation != self.generation:
            raise taken(self.run.name, status)


def new_run_id(spec: Spec) -> str:
    """Make a run id of UTC time and six random hex digits: 20261121-101500-ab12cd. Run ids sort by
    time."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def list_runs(root: Root, name: str | None = None) -> list[RunFolder]:
    """Return the runs under `root`, of one name or of all names, oldest first."""
    names = [root.runs(name)] if name else root.runs().children()
    runs = [
        RunFolder(folder)
        for parent in names
        if parent.is_dir()
        for folder in parent.children()
        if (folder / STATUS).is_file()
    ]
    return sorted(runs, key=lambda run: run.run_id)


def find_run(root: Root, reference: str) -> RunFolder:
    """Find the run that RUN_ID, the beginning of a RUN_ID, NAME/RUN_ID or NAME (its newest run)
    means.

    Raises RegistryError when `reference` means no run, or several.
    """
    runs = list_runs(root)
    named = [run for run in runs if run.name == reference]
    if named:
        return named[-1]
    found = [run for run in runs if reference in (run.run_id, f"{run.name}/{run.run_id}")]
    found = found or [run for run in runs if reference and run.run_id.startswith(reference)]
    if len(found) == 1:
        return found[0]
    if found:
        these = ", ".join(run.run_id for run in found[-5:])
        raise RegistryError.of("run", reference, "means several runs", f"one of {these}")
    fix = "`ftray runs list` shows all" if runs else "there is none yet, or name another --storage"
    raise RegistryError.of("run", reference, f"no such run in {root}", fix)


def _unwritable(location: Location, error: OSError) -> StorageError:
    fix = "free space or restore access; the same command goes on from there"
    return StorageError.of(location.url, None, f"cannot be written: {error}", fix)


def _clock() -> float:
    """Return seconds of a clock that runs on while this process or the machine is suspended."""
    return time.clock_gettime(_CLOCK)


_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
