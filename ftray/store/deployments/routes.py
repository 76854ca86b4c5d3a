"""The route of an alias: the version served under it, the version on trial, and earlier versions.

Holds the changes of a route; `ftray.store.deployments.route_file` stores it.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field

from ftray.store.files.document import Frozen
from ftray.store.runs.owner import Owner

_MOST_BEFORE = 50


class VersionRef(Frozen):
    """A version, and its folder's path below the storage root."""

    version: int
    folder: str


class Trial(Frozen):
    """A canary: a version that answers a share of the requests. With `shadow` it computes copies of
    that share, and the current version answers.

    id: differs between two trials of one version; proven: whether a replica got the version's
    golden answers.
    """

    stop: VersionRef
    share: Annotated[float, Field(gt=0, le=1)]
    shadow: bool = False
    id: str = ""
    proven: bool = False

    def same(self, other: Trial | None) -> bool:
        return other is not None and other.model_copy(update={"proven": self.proven}) == self


class Refusal(Frozen):
    """Why a replica does not answer with a version that was promoted or is on trial.

    since: the `AliasDeployment.since` of the promotion; trial: the id of the trial, empty for a
    promotion.
    """

    stop: VersionRef
    since: int
    why: str
    trial: str = ""


class Writer(Owner):
    """A process that changed the route and has not yet written the change to the registry."""

    id: str
    began: str


class AliasDeployment(Frozen):
    """generation: counts the writes of the file; since: the generation in which `current` was
    promoted; before: what was current earlier, newest last; proven: the last version whose golden
    answers a replica got; refused: what was promoted last, where no replica would answer with it;
    ended: how the last trial ended.

    unregistered: whether the registry's alias may still mean another version; writers: the
    processes that see to it. Where neither is, and the two differ, another tool than ftray has
    changed the registry.
    """

    generation: int = 0
    current: VersionRef
    since: int = 0
    before: tuple[VersionRef, ...] = ()
    proven: VersionRef | None = None
    refused: Refusal | None = None
    trial: Trial | None = None
    ended: str = ""
    unregistered: bool = False
    writers: tuple[Writer, ...] = ()

    @property
    def in_use(self) -> dict[str, VersionRef]:
        """The versions that replicas hold or may go back to, each under its role for the alias."""
        found = {"is served as": self.current}
        if self.trial is not None:
            found["is on trial beside"] = self.trial.stop
        if self.proven is not None:
            found["is what replicas go back to that serve"] = self.proven
        return found

    @property
    def settled(self) -> bool:
        """Whether the registry's alias means `current`, unless another tool changed the
        registry."""
        return not self.unregistered and not self.writers

    def to(self, stop: VersionRef) -> Self:
        """Return the route promoted to another version, or to the same one again, without a
        trial."""
        before = self.before if stop == self.current else (*self.before, self.current)
        ended = self._without_trial(f"version {stop.version} was promoted")
        return ended._at(stop, before[-_MOST_BEFORE:])

    def back(self) -> Self:
        """Return the route before the last change: without its trial or, where there is none, at
        the previous version."""
        if self.trial is not None:
            return self._without_trial("it was rolled back")
        return self._at(self.before[-1], self.before[:-1])

    def with_trial(self, trial: Trial) -> Self:
        return self.model_copy(update={"trial": trial, "ended": ""})

    def trial_ended(self, trial: Trial, why: str) -> Self:
        """Return the route without its trial, where `trial` is still that trial."""
        return self._without_trial(why) if trial.same(self.trial) else self

    def trial_proven(self, trial: Trial) -> Self:
        """Mark the trial as proven, where `trial` is still the trial of the route."""
        proven = trial.model_copy(update={"proven": True})
        return self.model_copy(update={"trial": proven}) if trial.same(self.trial) else self

    def proved(self, stop: VersionRef) -> Self:
        """Record that a replica got the golden answers of `stop`, if that is the current
        version."""
        return self.model_copy(update={"proven": stop}) if stop == self.current else self

    def refused_by(self, refusal: Refusal) -> Self:
        """Go back to the last proven version, where the refused version is still the promoted one
        and no replica answers with it."""
        still = refusal.since == self.since and refusal.stop == self.current
        if not still or self.proven == self.current:
            return self
        told = self.model_copy(update={"refused": refusal})
        if self.proven is None:
            return told
        before = self.before
        if self.proven in before:
            before = before[: len(before) - 1 - before[::-1].index(self.proven)]
        back = told._at(self.proven, before)
        return back.model_copy(update={"refused": refusal, "unregistered": True})

    def _at(self, stop: VersionRef, before: tuple[VersionRef, ...]) -> Self:
        since = self.generation + 1
        changes = {"current": stop, "before": before, "since": since, "refused": None}
        return self.model_copy(update=changes)

    def _without_trial(self, why: str) -> Self:
        if self.trial is None:
            return self
        ended = f"the trial of version {self.trial.stop.version} ended: {why}"
        return self.model_copy(update={"trial": None, "ended": ended})
