"""An alias that replicas serve: reads its route file and reports, and writes changes into them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from ftray.store.deployments.reports import Report, Roll, read_reports, report_file
from ftray.store.deployments.route_file import change_route, read_route
from ftray.store.deployments.routes import AliasDeployment, Refusal, Trial, VersionRef
from ftray.store.files.location import Location
from ftray.store.root import Root, open_root


@dataclass(frozen=True)
class Alias:
    """An alias of the model `name` below the storage root at `storage`. deployed: the version that
    the alias meant when the service was deployed; replicas serve it while no route file exists.

    Every method raises RegistryError for a file that is no route or report, and StorageError for a
    storage that does not answer. Methods that change the route return the route after the change.
    """

    storage: str
    name: str
    alias: str
    deployed: VersionRef

    @cached_property
    def root(self) -> Root:
        """The storage root, opened once a process: each opening creates a storage client."""
        return open_root(self.storage)

    def folder(self, stop: VersionRef) -> Location:
        return self.root.location / stop.folder

    def route(self) -> AliasDeployment:
        return read_route(self.root, self.name, self.alias) or AliasDeployment(
            current=self.deployed
        )

    def proved(self, stop: VersionRef) -> AliasDeployment:
        return self._change(lambda route: route.proved(stop))

    def refused(self, refusal: Refusal) -> AliasDeployment:
        return self._change(lambda route: route.refused_by(refusal))

    def trial_proven(self, trial: Trial) -> AliasDeployment:
        return self._change(lambda route: route.trial_proven(trial))

    def trial_ended(self, trial: Trial, why: str) -> AliasDeployment:
        return self._change(lambda route: route.trial_ended(trial, why))

    def reports(self) -> list[Report]:
        return read_reports(self.root, self.name, self.alias)

    def report(self, replica: str) -> Location:
        return report_file(self.root, self.name, self.alias, replica)

    def roll(self) -> Roll:
        return Roll(self.root, self.name, self.alias)

    def _change(self, edit: Callable[[AliasDeployment], AliasDeployment]) -> AliasDeployment:
        first = AliasDeployment(current=self.deployed)

        def edited(now: AliasDeployment | None) -> AliasDeployment:
            return edit(now or first)

        route = change_route(self.root, self.name, self.alias, edited)
        return route or first
