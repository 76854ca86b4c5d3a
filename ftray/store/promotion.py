"""Promoting a version to an alias, trying one out beside it, and going back.

The registry says what an alias means; the routes beside it are what serving follows. The registry
is changed first: where the two differ, as after a change by MLflow's own tools, it is right.
"""

from __future__ import annotations

from ftray.errors import RegistryError
from ftray.store.registry import Registry
from ftray.store.routes import Route, Stop, Trial, change_route, read_route
from ftray.store.versions import ModelVersion, check_alias


def promote(registry: Registry, reference: str, alias: str) -> ModelVersion:
    """Point `alias` to that version; what serves the alias follows. Raises RegistryError for an
    alias that is no word, or that MLflow reserves."""
    check_alias(alias)
    chosen = registry.resolve(reference)
    known, stop = find_route(registry, chosen.name, alias), _stop(registry, chosen)

    def led(route: Route | None) -> Route:
        route = route or known
        return Route(current=stop) if route is None else route.to(stop)

    registry.point(alias, chosen)
    change_route(registry.root, chosen.name, alias, led)
    return registry.resolve(chosen.reference)


def try_out(
    registry: Registry, reference: str, alias: str, share: float, shadow: bool
) -> ModelVersion:
    """Have what serves `alias` give that version a share of its requests, or of copies of them in
    the shadow. Raises RegistryError where the alias leads nowhere yet, or there already."""
    chosen = registry.resolve(reference)
    known = _known_route(registry, chosen.name, alias)
    trial = Trial(stop=_stop(registry, chosen), share=share, shadow=shadow)

    def tried(route: Route | None) -> Route:
        route = route or known
        if trial.stop == route.current:
            fix = "name another version"
            raise RegistryError.of("model", reference, f"is what {alias} means already", fix)
        return route.with_trial(trial)

    change_route(registry.root, chosen.name, alias, tried)
    return chosen


def roll_back(registry: Registry, name: str, alias: str) -> ModelVersion:
    """End the trial of `alias` or, where there is none, point it to the version before. Raises
    RegistryError where it had none, or its folder is gone."""
    route = _known_route(registry, name, alias)
    if route.trial is None and not route.before:
        problem = f"has always been version {route.current.version}"
        raise RegistryError.of("alias", alias, problem, "promote another version to it")
    back = route.back()
    chosen = registry.resolve(f"{name}:{back.current.version}")
    registry.point(alias, chosen)

    def returned(now: Route | None) -> Route:
        if now != route:
            fix = "look where it leads, and roll back again if you still want to"
            raise RegistryError.of("alias", alias, "another process has just changed it", fix)
        return back

    change_route(registry.root, name, alias, returned)
    return registry.resolve(chosen.reference)


def find_route(registry: Registry, name: str, alias: str) -> Route | None:
    """Where `alias` leads; None where it is no alias of `name`."""
    held = [version for version in registry.versions(name) if alias in version.aliases]
    if not held:
        return None
    stop, known = _stop(registry, held[0]), read_route(registry.root, name, alias)
    if known is None:
        return Route(current=stop)
    if known.current != stop:
        change_route(registry.root, name, alias, lambda now: now and now.to(stop))
        return known.to(stop)
    return known


def _known_route(registry: Registry, name: str, alias: str) -> Route:
    registry.resolve(f"{name}@{alias}")  # says what there is instead
    route = find_route(registry, name, alias)
    assert route is not None, "the alias was resolved"
    return route


def _stop(registry: Registry, version: ModelVersion) -> Stop:
    base = registry.root.location.path.rstrip("/") + "/"
    return Stop(version=version.version, folder=version.folder.path.removeprefix(base))
