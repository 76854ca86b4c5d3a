"""The status of a run and the process that drives it: the content of status.json."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import ValidationError

from ftray.errors import RunTaken, StorageError
from ftray.spec.messages import first_fault
from ftray.store.files.document import Document, Version
from ftray.store.files.location import Location
from ftray.store.runs.owner import LEASE_S, Owner

State = Literal["running", "done", "failed", "interrupted"]
Kind = Literal["train", "tune"]

STATUS = "status.json"
_MAY_LIVE_S = 3600.0


class RunStatus(Owner):
    """The status of a run. Times are ISO 8601 in UTC; `updated` is the owner's last sign of life.

    generation: counts the run's owners; beat: counts the status writes; lease: seconds without a
    new beat after which another process may take the run over; resumable: for a `failed` run,
    whether the same command continues the run.
    """

    kind: Kind
    state: State
    started: str
    updated: str
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
        now = _now()
        started = {"kind": kind, "state": "running", "started": now, "updated": now}
        return cls(**started, lease=LEASE_S, **dict(Owner.current()))

    def to_bytes(self) -> bytes:
        return self.model_dump_json(indent=2).encode() + b"\n"

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
        alive = self.alive()
        dead = self._silent > self.lease if alive is None else not alive
        return "interrupted" if self.state == "running" and dead else self.state

    @property
    def may_live(self) -> bool:
        """Whether the run may have an owner: False only where it certainly has none."""
        alive = self.alive()
        return self.state == "running" and (self._silent < _MAY_LIVE_S if alive is None else alive)

    @property
    def _silent(self) -> float:
        return (datetime.now(UTC) - datetime.fromisoformat(self.updated)).total_seconds()

    def changed(self, **changes: Any) -> RunStatus:
        """Return the status with changed fields, the present time and the next beat."""
        return self.model_copy(update={"updated": _now(), "beat": self.beat + 1, **changes})

    def taken_over(self) -> RunStatus:
        """Return the status with this process as the run's next owner."""
        owner = {**dict(Owner.current()), "generation": self.generation + 1, "lease": LEASE_S}
        return self.changed(state="running", message="", **owner)


@dataclass(frozen=True)
class Seen:
    """A status and the version of the file from which the status was read."""

    status: RunStatus
    version: Version


def read_status(document: Document, file: Location) -> Seen:
    """Read status.json. Raises StorageError when the file is missing or cannot be read."""
    version = document.read()
    fix = "restore the file, or delete the run's folder"
    if version.content is None:
        raise StorageError.of(file.url, None, "cannot be read: no such file", fix)
    try:
        return Seen(RunStatus.model_validate_json(version.content), version)
    except ValidationError as error:
        problem = f"cannot be read: {first_fault(error)}"
        raise StorageError.of(file.url, None, problem, fix) from None


def taken(run_id: str, status: RunStatus, verb: str = "is now driven") -> RunTaken:
    """Make the error for a process that may not drive the run, as another process drives it."""
    who = f"{status.host}, pid {status.pid}"
    fix = f"follow it with `ftray runs show {run_id}`, or stop it and run the same command again"
    return RunTaken.of("run", run_id, f"{verb} by {who}", fix)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
