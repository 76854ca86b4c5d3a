"""Writes the report of one replica: the version with which it answers, and the counts of a trial.

The commands that promote a version and the other replicas read the reports.
"""

from __future__ import annotations

import threading

from ftray.errors import FtrayError
from ftray.serve.models.alias import Alias
from ftray.serve.ops.log import logger
from ftray.store.deployments.reports import Report, TrialCounts
from ftray.store.deployments.routes import Refusal
from ftray.store.runs.owner import Owner

BEAT_S, LEASE_S = 5.0, 30.0
_log = logger(__name__)


class Reporter:
    """Writes the report when it changes, and every few seconds as a heartbeat. A write that fails
    is logged; the next heartbeat writes the report again."""

    def __init__(self, alias: Alias, replica: str, lease_s: float = LEASE_S) -> None:
        self.replica = replica
        self._file = alias.report(replica)
        self._roll = alias.roll()
        self._told: Report | None = None
        self._lease_s = lease_s
        self._lock = threading.Lock()
        self._in_trouble = self._over = False

    def tell(
        self, version: int, since: int, refused: Refusal | None, trial: TrialCounts | None
    ) -> None:
        report = Report(
            replica=self.replica,
            version=version,
            since=since,
            refused=refused,
            trial=trial,
            lease=self._lease_s,
            **dict(Owner.current()),
        )
        with self._lock:
            if self._told is None or report != self._told.model_copy(update={"beat": 0}):
                beat = 0 if self._told is None else self._told.beat
                self._write(report.model_copy(update={"beat": beat + 1}))

    def beat(self) -> None:
        with self._lock:
            if self._told is not None:
                self._write(self._told.model_copy(update={"beat": self._told.beat + 1}))

    def keep_on(self, over: threading.Event) -> None:
        """Write heartbeats, and delete the reports of dead replicas, until `over` is set; then
        delete this replica's report."""
        swept = 0
        while not over.wait(BEAT_S):
            self.beat()
            swept += 1
            if swept % 6 == 0:
                self._sweep()
        self.withdraw()

    def withdraw(self) -> None:
        """Delete the report, and write no other one: the replica ends."""
        with self._lock:
            self._told, self._over = None, True
            try:
                self._file.delete()
            except (FtrayError, OSError) as error:
                _log.warning("the report %s stays: %s", self._file, error)

    def _sweep(self) -> None:
        try:
            self._roll.call()
        except (FtrayError, OSError) as error:
            _log.warning("the reports of other replicas cannot be read: %s", error)

    def _write(self, report: Report) -> None:
        if self._over:
            return
        self._told = report
        try:
            self._file.write_bytes(report.model_dump_json(indent=2).encode())
            self._in_trouble = False
        except (FtrayError, OSError) as error:
            if not self._in_trouble:
                _log.warning("nobody is told what this replica answers with: %s", error)
            self._in_trouble = True
