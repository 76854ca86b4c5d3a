"""Promotes a version to an alias, puts a version on trial beside it, and rolls back.

Both the route file and the registry record the version of an alias. A command changes the route
first: of two commands at once, the later one sees the earlier one's change. The command then writes
the registry, again and again until no other command changed the route in between.

A command that is killed in the middle leaves a mark in the route, and so does a replica that
refuses a version. The next command finishes the work that the mark names. Where the route has no
mark and the registry names another version, another tool changed the registry; ftray then follows
the registry.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ftray.errors import RegistryError
from ftray.store.deployments.route_file import change_route, read_route, read_routes
from ftray.store.deployments.routes import AliasDeployment, Trial, VersionRef, Writer
from ftray.store.registry.registry import Registry
from ftray.store.registry.versions import ModelVersion, alias_in, check_alias
from ftray.store.runs.owner import Owner

_MAY_WRITE = timedelta(hours=1)
"""A process on another machine that began to write this long ago no longer writes. The clocks of
two machines differ by less."""


@dataclass(frozen=True)
class Changed:
    """Result of a command: the version that the alias now means or tries out, and the route that
    the replicas have to follow."""

    model: ModelVersion
    route: AliasDeployment


def promote(registry: Registry, reference: str, alias: str) -> Changed:
    """Point `alias` to the version of `reference`; the replicas that serve the alias follow. Raises
    RegistryError for an alias that is no word, or that MLflow reserves."""
    check_alias(alias)
    chosen = resolve(registry, reference)
    known = _adopt(registry, chosen.name, alias)
    stop, writer = _stop(registry, chosen), _writer()

    def led(route: AliasDeployment | None) -> AliasDeployment:
        route = route or known
        return _written_by(
            writer, AliasDeployment(current=stop) if route is None else route.to(stop)
        )

    route = change_route(registry.root, chosen.name, alias, led)
    assert route is not None, "it was written"
    _register_as(writer, registry, chosen.name, alias)
    return Changed(registry.resolve(chosen.reference), route)


def try_out(registry: Registry, reference: str, alias: str, share: float, shadow: bool) -> Changed:
    """Put the version of `reference` on trial: the replicas that serve `alias` give it a share of
    the requests, or as a shadow copies of that share. Raises RegistryError where the alias means no
    version yet, or this one already."""
    chosen = resolve(registry, reference)
    known = _known_route(registry, chosen.name, alias)
    stop = _stop(registry, chosen)
    trial = Trial(stop=stop, share=share, shadow=shadow, id=_new_id())

    def tried(route: AliasDeployment | None) -> AliasDeployment:
        route = route or known
        if stop == route.current:
            fix = "name another version"
            raise RegistryError.of("model", reference, f"is what {alias} means already", fix)
        return route.with_trial(trial)

    route = change_route(registry.root, chosen.name, alias, tried)
    assert route is not None, "it was written"
    return Changed(chosen, route)


def roll_back(registry: Registry, name: str, alias: str) -> Changed:
    """End the trial of `alias`; without a trial, point `alias` to its previous version. Raises
    RegistryError where there is no previous version, where the version's folder is gone, or where
    another process changes the alias."""
    seen, writer = _known_route(registry, name, alias), _writer()
    if seen.trial is None and not seen.before:
        problem = f"has always been version {seen.current.version}"
        raise RegistryError.of("alias", alias, problem, "promote another version to it")
    chosen = registry.resolve(f"{name}:{seen.back().current.version}")

    def returned(now: AliasDeployment | None) -> AliasDeployment:
        if now is None or _meaning(now) != _meaning(seen):
            fix = "look where it leads, and roll back again if you still want to"
            raise RegistryError.of("alias", alias, "another process has just changed it", fix)
        return _written_by(writer, now.back())

    route = change_route(registry.root, name, alias, returned)
    assert route is not None, "it was written"
    _register_as(writer, registry, name, alias)
    return Changed(registry.resolve(chosen.reference), route)


def resolve(registry: Registry, reference: str) -> ModelVersion:
    """Resolve as `Registry.resolve`; for an alias first bring the registry in line with its
    route."""
    if aliased := alias_in(reference):
        route = read_route(registry.root, *aliased)
        if route is not None and not route.settled:
            _register(registry, *aliased, None)
    return registry.resolve(reference)


def find_route(registry: Registry, name: str, alias: str) -> AliasDeployment | None:
    """Return the route of `alias`, with the registry brought in line; None for an unknown alias."""
    route = _adopt(registry, name, alias)
    if route is None or route.settled:
        return route
    return _register(registry, name, alias, None)


def settled_routes(registry: Registry, name: str) -> dict[str, AliasDeployment]:
    """Return the routes of all aliases of a model, with the registry brought in line."""
    if not registry.versions(name):
        return {}
    routes = read_routes(registry.root, name)
    for alias in [alias for alias, route in routes.items() if not route.settled]:
        routes[alias] = _register(registry, name, alias, None)
    return routes


def _adopt(registry: Registry, name: str, alias: str) -> AliasDeployment | None:
    """Return the route of `alias`, changed to the registry's version where another tool changed the
    registry."""
    while True:
        seen = read_route(registry.root, name, alias)
        if seen is not None and not seen.settled:
            return seen
        held = next((v for v in registry.versions(name) if alias in v.aliases), None)
        if held is None:
            return None
        stop = _stop(registry, held)
        if seen is None:
            return AliasDeployment(current=stop)
        if seen.current == stop:
            return seen
        _replace(registry, name, alias, seen, seen.to(stop))


def _replace(
    registry: Registry, name: str, alias: str, seen: AliasDeployment, new: AliasDeployment
) -> AliasDeployment:
    """Replace `seen` by `new` unless another process changed the route; return the route then."""

    def unless_changed(now: AliasDeployment | None) -> AliasDeployment | None:
        return new if now == seen else None

    now = change_route(registry.root, name, alias, unless_changed)
    assert now is not None, "no route is ever deleted"
    return now


def _register_as(writer: Writer, registry: Registry, name: str, alias: str) -> None:
    """Call `_register`; where it fails, mark the route so that the next command registers."""
    try:
        _register(registry, name, alias, writer)
    except BaseException:

        def left(now: AliasDeployment | None) -> AliasDeployment | None:
            assert now is not None, "no route is ever deleted"
            others = tuple(one for one in now.writers if one != writer)
            return now.model_copy(update={"writers": others, "unregistered": True})

        change_route(registry.root, name, alias, left)
        raise


def _register(registry: Registry, name: str, alias: str, writer: Writer | None) -> AliasDeployment:
    """Point the registry's alias to the route's version, even while others change the route, and
    take `writer` out of the route's writers."""
    while True:
        seen = read_route(registry.root, name, alias)
        assert seen is not None, "no route is ever deleted"
        registry.point(alias, name, seen.current.version)
        left = tuple(w for w in seen.writers if w != writer and _may_write(w))
        told = seen.model_copy(update={"writers": left, "unregistered": False})
        now = _replace(registry, name, alias, seen, told)
        if now.model_copy(update={"generation": seen.generation}) == told:
            return now


def _known_route(registry: Registry, name: str, alias: str) -> AliasDeployment:
    check_alias(alias)
    if not registry.versions(name):
        registry.resolve(name)  # raises with the known names
    route = find_route(registry, name, alias)
    registry.resolve(f"{name}@{alias}")
    assert route is not None, "the alias was resolved"
    return route


def _meaning(route: AliasDeployment) -> tuple[int, str | None]:
    """Return the promotion and the trial that a rollback undoes."""
    return route.since, None if route.trial is None else route.trial.id


def _written_by(writer: Writer, route: AliasDeployment) -> AliasDeployment:
    return route.model_copy(update={"writers": (*route.writers, writer)})


def _writer() -> Writer:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Writer(id=_new_id(), began=now, **dict(Owner.current()))


def _may_write(writer: Writer) -> bool:
    alive = writer.alive()
    silent = datetime.now(UTC) - datetime.fromisoformat(writer.began)
    return silent < _MAY_WRITE if alive is None else alive


def _new_id() -> str:
    return uuid.uuid4().hex[:12]


def _stop(registry: Registry, version: ModelVersion) -> VersionRef:
    base = registry.root.location.path.rstrip("/") + "/"
    return VersionRef(version=version.version, folder=version.folder.path.removeprefix(base))
