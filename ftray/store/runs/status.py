"""The status of a run and the process that drives it: the content of status.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any, Literal

from ftray.errors import RunTaken, StorageError
from ftray.store.files.document import Document, Version
from ftray.store.files.location import Location
from ftray.store.runs.owner import LEASE_S, Owner

State = Literal["running", "done", "failed", "interrupted"]
Kind = Literal["train", "tune"]

STATUS = "status.json"
_MAY_LIVE_S = 3600.0


@dataclass(frozen=True)
class RunStatus:
    """The status of a run. Times are ISO 8601 in UTC; `updated` is the owner's last sign of life.

    generation: counts the run's owners; beat: counts the status writes; lease: seconds without a
    new beat after which another process may take the run over; resumable: for a `failed` run,
    whether the same command continues the run.
    """

    kind: Kind
    state: State
    started: str
    updated: str
    host: str
    pid: int
    process: str  # tells a process from a later process of the same pid: see Owner
    generation: int = 1
    beat: int = 0
    lease: float = LEASE_S
    message: str = ""
    resumable: bool = False
    model: str = ""
    version: int | None = None

    @classmethod
    def begun(cls, kind: Kind) -> RunStatus:
        """Make the status of a run that this process begins."""
        now, owner = _now(), Owner.current()
        return cls(kind, "running", now, now, owner.host, owner.pid, owner.process, lease=LEASE_S)

    @classmethod
    def parse(cls, content: bytes) -> RunStatus:
        """Parse the content of status.json. Raises ValueError or TypeError for other content."""
        known = {field.name for field in fields(cls)}
        return cls(**{k: v for k, v in dict(json.loads(content)).items() if k in known})

    def to_bytes(self) -> bytes:
        return (json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n").encode()

    @property
    def owner(self) -> Owner:
        return Owner(self.host, self.pid, self.process)

    @property
    def goes_on(self) -> bool:
        """Whether the same command continues the run once no process drives it."""
        return self.state in ("running", "interrupted") or (
            self.state == "failed" and self.resumable
        )

    @property
    def shown(self) -> State:
        """The state for people: `interrupted` for a `running` run whose owner is dead. On another
        machine's run this compares the clocks of two machines, so ftray only shows the result."""
        alive = self.owner.alive()
        dead = self._silent > self.lease if alive is None else not alive
        return "interrupted" if self.state == "running" and dead else self.state

    @property
    def may_live(self) -> bool:
        """Whether the run may have an owner: False only where it certainly has none."""
        alive = self.owner.alive()
        return self.state == "running" and (self._silent < _MAY_LIVE_S if alive is None else alive)

    @property
    def _silent(self) -> float:
        return (datetime.now(UTC) - datetime.fromisoformat(self.updated)).total_seconds()

    def changed(self, **changes: Any) -> RunStatus:
        """Return the status with changed fields, the present time and the next beat."""
        return replace(self, **{"updated": _now(), "beat": self.beat + 1, **changes})

    def taken_over(self) -> RunStatus:
        """Return the status with this process as the run's next owner."""
        owner = asdict(Owner.current())
        generation = self.generation + 1
        return self.changed(
            state="running", message="", generation=generation, lease=LEASE_S, **owner
        )


@dataclass(frozen=True)
class Seen:
    """A status and the version of the file from which the status was read."""

    status: RunStatus
    version: Version


def read_status(document: Document, file: Location) -> Seen:
    """Read status.json. Raises StorageError when the file is missing or cannot be read."""
    version = document.read()
    try:
        if version.content is None:
            raise ValueError("no such file")
        return Seen(RunStatus.parse(version.content), version)
    except (ValueError, TypeError) as error:
        fix = "restore the file, or delete the run's folder"
        raise StorageError.of(file.url, None, f"cannot be read: {error}", fix) from None


def taken(run_id: str, status: RunStatus, verb: str = "is now driven") -> RunTaken:
    """Make the error for a process that may not drive the run, as another process drives it."""
    who = f"{status.host}, pid {status.pid}"
    fix = f"follow it with `ftray runs show {run_id}`, or stop it and run the same command again"
    return RunTaken.of("run", run_id, f"{verb} by {who}", fix)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
