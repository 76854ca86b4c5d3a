"""Reports of the replicas that serve an alias: routes/NAME/ALIAS/REPLICA.json below the storage
root.

A replica rewrites its report every few seconds, each time with a higher beat number. A reader takes
a replica for dead once the number stays the same for longer than the replica's lease. The reader's
own clock measures that time: the clocks of two hosts are never compared.
"""

from __future__ import annotations

import time
from typing import Annotated

from pydantic import Field, ValidationError

from ftray.errors import RegistryError
from ftray.spec.messages import first_fault
from ftray.store.deployments.routes import Refusal
from ftray.store.files.document import Frozen, open_document
from ftray.store.files.location import Location
from ftray.store.root import Root
from ftray.store.runs.owner import Owner

_SUFFIX = ".json"
Count = Annotated[int, Field(ge=0)]


class Counts(Frozen):
    """Requests to one version during a trial. timed: answers with a measured time; slow: timed
    answers that took much longer than the current version usually takes."""

    answered: Count = 0
    failed: Count = 0
    timed: Count = 0
    slow: Count = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{k: v + getattr(other, k) for k, v in self.model_dump().items()})


class TrialCounts(Frozen):
    """Counts of one replica for the trial with that id."""

    id: str
    current: Counts = Counts()
    tried: Counts = Counts()


class Report(Owner):
    """The versions with which one replica answers.

    since: the `AliasDeployment.since` of the promotion that the replica follows; refused: the
    promotion that the replica does not follow, with the reason; trial: None where no version is on
    trial; lease: seconds until the next beat at the latest.
    """

    replica: str
    version: int
    since: int
    refused: Refusal | None = None
    trial: TrialCounts | None = None
    beat: int = 0
    lease: float


def report_file(root: Root, name: str, alias: str, replica: str) -> Location:
    return root.routes(name) / alias / f"{replica}{_SUFFIX}"


def read_reports(root: Root, name: str, alias: str) -> list[Report]:
    """Read the reports of living and dead replicas. Raises RegistryError for a file that is no
    report, and StorageError where the storage does not answer."""
    files = (root.routes(name) / alias).children()
    found = [_read(file) for file in files if file.name.endswith(_SUFFIX)]
    return [report for report in found if report is not None]


def _read(file: Location) -> Report | None:
    content = open_document(file).read().content
    if content is None:
        return None  # the replica has just ended and deleted its report
    try:
        return Report.model_validate_json(content)
    except ValidationError as error:
        problem = f"cannot be read: {first_fault(error)}"
        raise RegistryError.of("replica", file.url, problem, "delete the file") from None


class Roll:
    """The live replicas of an alias, as one reader sees them over time."""

    def __init__(self, root: Root, name: str, alias: str) -> None:
        self._of = root, name, alias
        self._beats: dict[str, tuple[int, float]] = {}
        """Replica -> its last beat, and when this reader first saw that beat."""

    def call(self) -> list[Report]:
        """Return reports of replicas that may be alive, and delete those of dead ones. Raises as
        `read_reports`."""
        living = []
        for report in read_reports(*self._of):
            if self._is_alive(report):
                living.append(report)
            else:
                report_file(*self._of, report.replica).delete()
        return living

    def _is_alive(self, report: Report) -> bool:
        beat, seen = self._beats.get(report.replica, (-1, 0.0))
        now = time.monotonic()
        if beat != report.beat:
            self._beats[report.replica] = report.beat, now
            seen = now
        return report.alive() is not False and now - seen <= report.lease
