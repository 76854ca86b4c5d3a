"""How a run stands, and who drives it: the content of status.json."""

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
    """How a run stands. Times are ISO 8601 in UTC; `updated` is the owner's last sign of life.

    generation: counts the run's owners, beat: the writes of the present one, lease: seconds
    without a new beat after which another process may take the run over; resumable: of a `failed`
    run, whether the same command goes on with it.
    """

    kind: Kind
    state: State
    started: str
    updated: str
    host: str
    pid: int
    process: str  # tells a process from a later one with its number: see Owner
    generation: int = 1
    beat: int = 0
    lease: float = LEASE_S
    message: str = ""
    resumable: bool = False
    model: str = ""
    version: int | None = None

    @classmethod
    def begun(cls, kind: Kind) -> RunStatus:
        """Of a run that this process begins."""
        now, owner = _now(), Owner.current()
        return cls(kind, "running", now, now, owner.host, owner.pid, owner.process, lease=LEASE_S)

    @classmethod
    def parse(cls, content: bytes) -> RunStatus:
        """Raises ValueError or TypeError for what is no such file."""
        known = {field.name for field in fields(cls)}
        return cls(**{k: v for k, v in dict(json.loads(content)).items() if k in known})

    def to_bytes(self) -> bytes:
        return (json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n").encode()

    @property
    def owner(self) -> Owner:
        return Owner(self.host, self.pid, self.process)

    @property
    def goes_on(self) -> bool:
        """Whether the same command goes on with the run, once nobody drives it."""
        return self.state in ("running", "interrupted") or (
            self.state == "failed" and self.resumable
        )

    @property
    def shown(self) -> State:
        """For people: a `running` whose owner is dead is `interrupted`. The clocks of two machines
        are compared for it, so nothing is done to a run because of it."""
        alive = self.owner.alive()
        dead = self._silent > self.lease if alive is None else not alive
        return "interrupted" if self.state == "running" and dead else self.state

    @property
    def may_live(self) -> bool:
        """False only where the run has surely no owner any more."""
        alive = self.owner.alive()
        return self.state == "running" and (self._silent < _MAY_LIVE_S if alive is None else alive)

    @property
    def _silent(self) -> float:
        return (datetime.now(UTC) - datetime.fromisoformat(self.updated)).total_seconds()

    def changed(self, **changes: Any) -> RunStatus:
        """With those fields, a later time and the next beat."""
        return replace(self, **{"updated": _now(), "beat": self.beat + 1, **changes})

    def taken_over(self) -> RunStatus:
        """By this process, as the next owner."""
        owner = asdict(Owner.current())
        generation = self.generation + 1
        return self.changed(
            state="running", message="", generation=generation, lease=LEASE_S, **owner
        )


@dataclass(frozen=True)
class Seen:
    """A status and the version of the file that it was read from."""

    status: RunStatus
    version: Version


def read_status(document: Document, file: Location) -> Seen:
    """Raises StorageError when status.json is not there or cannot be read."""
    version = document.read()
    try:
        if version.content is None:
            raise ValueError("no such file")
        return Seen(RunStatus.parse(version.content), version)
    except (ValueError, TypeError) as error:
        fix = "restore the file, or delete the run's folder"
        raise StorageError.of(file.url, None, f"cannot be read: {error}", fix) from None


def taken(run_id: str, status: RunStatus, verb: str = "is now driven") -> RunTaken:
    """The error of a process that does not drive the run, as another one does."""
    who = f"{status.host}, pid {status.pid}"
    fix = f"follow it with `ftray runs show {run_id}`, or stop it and run the same command again"
    return RunTaken.of("run", run_id, f"{verb} by {who}", fix)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
