"""Deletes runs and model versions that a user no longer wants."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from ftray.errors import RegistryError, StorageError
from ftray.store.deployments.route_file import change_route, read_routes
from ftray.store.deployments.routes import AliasDeployment
from ftray.store.registry.registry import Registry
from ftray.store.registry.versions import ModelVersion
from ftray.store.root import MODEL_MANIFEST, Root
from ftray.store.runs.claim import CURRENT, take
from ftray.store.runs.folder import CHECKPOINTS, RUN_ID, WORKING, RunFolder, list_runs
from ftray.store.runs.status import STATUS

log = logging.getLogger(__name__)


def clear(run: RunFolder, keep_checkpoints: bool) -> None:
    """Delete the working folders of a run that has ended well. A folder that cannot be deleted now
    is left to `ftray runs prune`."""
    for name in WORKING if keep_checkpoints else (*WORKING, CHECKPOINTS):
        try:
            (run.location / name).delete()
        except (OSError, StorageError) as error:
            log.warning("%s stays: %s", run.location / name, error)


def older_than(root: Root, age: timedelta) -> list[RunFolder]:
    """List the runs that ended, or gave their last sign of life, more than `age` ago, in the order
    of `list_runs`: oldest first."""
    before = datetime.now(UTC) - age
    found = [(run, run.status) for run in list_runs(root)]
    return [
        run
        for run, status in found
        if not status.may_live and datetime.fromisoformat(status.updated) < before
    ]


def delete_run(run: RunFolder, say: Callable[[str], None]) -> None:
    """Delete the run's folder; the model that the run made stays.

    A `running` run is taken over first. Where its owner runs on another machine, that may take as
    long as the owner's lease, and `say` is told so. Raises RunTaken when another process drives the
    run.
    """
    seen = run.look()
    while seen.status.state == "running" and not take(run, seen, say):
        seen = run.look()
    run.location.delete(first=STATUS)
    parent = run.location.parent
    names = {child.name for child in parent.children()}
    if not any(RUN_ID.fullmatch(name) for name in names) and names <= {CURRENT}:
        parent.delete()


def check_unused(registry: Registry, version: ModelVersion) -> None:
    """Raise RegistryError where an alias means that version, or has it on trial or to go back
    to."""
    if version.aliases:
        fix = f"promote another version to {version.aliases[0]} first"
        these = ", ".join(version.aliases)
        raise RegistryError.of("model", version.reference, f"is what {these} points to", fix)
    for alias, route in read_routes(registry.root, version.name).items():
        _check_apart(version, alias, route)


def _check_apart(version: ModelVersion, alias: str, route: AliasDeployment) -> None:
    for role, stop in route.in_use.items():
        if stop.version == version.version:
            fix = f"promote another version to {alias}, or roll it back, first"
            if route.proven == stop != route.current:
                fix = f"delete it once a replica answers with version {route.current.version}"
            raise RegistryError.of("model", version.reference, f"{role} {alias}", fix)


def delete_version(registry: Registry, version: ModelVersion) -> None:
    """Delete a version and its folder. Raises RegistryError where the version is in use."""
    check_unused(registry, version)
    gone = version.version

    for alias in read_routes(registry.root, version.name):

        def without(route: AliasDeployment | None, alias: str = alias) -> AliasDeployment | None:
            if route is None:
                return None
            _check_apart(version, alias, route)  # another process may have promoted it just now
            before = tuple(stop for stop in route.before if stop.version != gone)
            return route.model_copy(update={"before": before})

        change_route(registry.root, version.name, alias, without)
    registry.delete(version)
    version.folder.delete(first=MODEL_MANIFEST)
