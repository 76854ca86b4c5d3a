"""The run folder, runs/NAME/RUN_ID: the resolved spec, how the run stands, and its metrics.

status.json is the folder's manifest, written after the spec. A running driver rewrites it every few
seconds, so that another driver can tell a run that was killed, and continue it.
"""

from __future__ import annotations

import fcntl
import logging
import re
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml

from ftray.errors import RegistryError, StorageError
from ftray.spec.load import dump
from ftray.spec.schema import Spec
from ftray.store.location import Location
from ftray.store.metrics import MetricsLog
from ftray.store.owner import Owner
from ftray.store.root import Root

State = Literal["running", "done", "failed", "interrupted"]
Kind = Literal["train", "tune"]

log = logging.getLogger(__name__)

SPEC, STATUS, METRICS = "spec.yaml", "status.json", "metrics.jsonl"
RUN_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}")
_BEAT_EVERY = 10.0  # seconds


@dataclass(frozen=True)
class RunStatus:
    """How a run stands. Times are ISO 8601 in UTC; `updated` is the owner's last sign of life."""

    kind: Kind
    state: State
    started: str
    updated: str
    host: str
    pid: int
    process: str  # tells a process from a later one with its number: see Owner
    message: str = ""
    model: str = ""
    version: int | None = None

    @property
    def owner(self) -> Owner:
        return Owner(self.host, self.pid, self.process)

    @property
    def silent(self) -> float:
        """Seconds since the owner's last sign of life."""
        return (datetime.now(UTC) - datetime.fromisoformat(self.updated)).total_seconds()


class RunFolder:
    """One run's folder. Only its owner writes: one process, through one RunFolder that its threads
    may share."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self._lock = threading.RLock()
        self._metrics = MetricsLog(location / METRICS)

    @classmethod
    def create(cls, root: Root, spec: Spec, run_id: str, kind: Kind = "train") -> RunFolder:
        """A new folder whose run is `running`, owned by this process."""
        run = cls(root.runs(spec.name) / run_id)
        if not run.location.is_local:
            run.location.fs.create_dir(run.location.path, recursive=True)
        (run.location / SPEC).write_text(dump(spec))
        now, owner = _now(), Owner.current()
        run._write(RunStatus(kind, "running", now, now, owner.host, owner.pid, owner.process))
        return run

    @classmethod
    def open(cls, root: Root, name: str, run_id: str) -> RunFolder:
        """An existing folder. Raises RegistryError when there is none."""
        run = cls(root.runs(name) / run_id)
        if not (run.location / STATUS).is_file():
            fix = "`ftray runs list` shows all"
            raise RegistryError.of("run", f"{name}/{run_id}", f"no such run in {root}", fix)
        return run

    @property
    def run_id(self) -> str:
        return self.location.name

    @property
    def name(self) -> str:
        return self.location.path.rsplit("/", 2)[-2]

    @property
    def status(self) -> RunStatus:
        """What status.json says. Raises StorageError when it cannot be read."""
        file = self.location / STATUS
        known = {field.name for field in fields(RunStatus)}
        try:
            content = file.read_json()
            return RunStatus(**{key: value for key, value in content.items() if key in known})
        except (OSError, ValueError, TypeError, AttributeError) as error:
            fix = "restore the file, or delete the run's folder"
            raise StorageError.of(file.url, None, f"cannot be read: {error}", fix) from None

    @property
    def state(self) -> State:
        """As the status says, but a `running` whose owner is dead is `interrupted`."""
        status = self.status
        if status.state == "running" and not status.owner.alive(status.silent):
            return "interrupted"
        return status.state

    def spec_tree(self) -> dict[str, Any]:
        """The resolved spec as plain values: an older ftray's may no longer be a valid Spec."""
        return yaml.safe_load((self.location / SPEC).read_bytes())

    def set_status(self, **changes: Any) -> RunStatus:
        """Change fields of the status, such as state="done" or message="…"; a sign of life too."""
        with self._lock:
            status = replace(self.status, **{"updated": _now(), **changes})
            self._write(status)
            return status

    def claim(self) -> bool:
        """Make this process the owner of an unfinished run; False if another one owns it by now."""
        with _exclusive(self.location):
            if not _is_free(self.status):
                return False
            owner = Owner.current()
            self.set_status(state="running", message="", **asdict(owner))
            return True

    @contextmanager
    def beating(self, every: float = _BEAT_EVERY) -> Iterator[None]:
        """Give a sign of life every `every` seconds for as long as the block runs."""
        over = threading.Event()
        thread = threading.Thread(target=self._beat, args=(over, every), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Add a record to metrics.jsonl; under a remote root it may wait for `close`."""
        self._metrics.append(record)

    def metrics(self) -> list[dict[str, Any]]:
        """The records of metrics.jsonl."""
        return self._metrics.read()

    def close(self) -> None:
        """Write what `append_metrics` still holds back."""
        self._metrics.close()

    def _write(self, status: RunStatus) -> None:
        (self.location / STATUS).write_json(asdict(status))

    def _beat(self, over: threading.Event, every: float) -> None:
        warned = False
        while not over.wait(every):
            try:
                self.set_status()
            except OSError as error:
                if not warned:
                    log.warning("cannot write %s: %s", self.location / STATUS, error)
                warned = True


def new_run_id(spec: Spec) -> str:
    """UTC time and six random hex digits: 20261121-101500-ab12cd. Sorts by time."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def list_runs(root: Root, name: str | None = None) -> list[RunFolder]:
    """The runs under `root`, of one name or of all, oldest first."""
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
    """The run that RUN_ID, its beginning, NAME/RUN_ID or NAME (its newest run) means.

    Raises RegistryError when that is none, or several.
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


def unfinished(root: Root, spec: Spec, kind: Kind = "train") -> RunFolder | None:
    """The newest run of this very spec that was killed or interrupted and that nobody owns."""
    text = dump(spec).encode()
    for run in reversed(list_runs(root, spec.name)):
        file = run.location / SPEC
        if not file.is_file() or file.read_bytes() != text:
            continue
        status = run.status
        if status.kind == kind and _is_free(status):
            return run
    return None


def _is_free(status: RunStatus) -> bool:
    if status.state == "interrupted" and status.owner == Owner.current():
        return True  # this process stopped it and goes on with it
    unfinished_state = status.state in ("running", "interrupted")
    return unfinished_state and not status.owner.alive(status.silent)


@contextmanager
def _exclusive(folder: Location) -> Iterator[None]:
    """One process of this machine at a time, where the storage is local."""
    if not folder.is_local:
        yield
        return
    with (Path(folder.path) / ".claim.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
