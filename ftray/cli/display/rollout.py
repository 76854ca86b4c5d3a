"""Output of the commands that change an alias: the change, and the replicas that follow it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ftray.cli.console import say

if TYPE_CHECKING:
    from ftray.store.deployments.promotion import Changed
    from ftray.store.deployments.rollout import Rollout
    from ftray.store.deployments.routes import AliasDeployment
    from ftray.store.registry.registry import Registry

Wait = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        min=0,
        help="Wait so long for the replicas that serve the alias to follow; 0: do not wait.",
    ),
]
PATIENCE_S = 300.0


def follow(registry: Registry, changed: Changed, alias: str, seconds: float) -> dict[str, Any]:
    """Wait until the replicas follow; return the result for --json. Raises RolloutFailed unless all
    replicas follow."""
    from ftray.store.deployments.rollout import await_rollout

    name, told = changed.model.name, changed.model.to_json()
    if not seconds:
        return told
    seen = await_rollout(registry.root, name, alias, changed.route, seconds, say)
    if not seen.done:
        raise _failed(registry, changed, alias, seen)
    if seen.followed:
        say(f"all replicas of {name}@{alias} follow: {', '.join(seen.followed)}")
    return told | {"replicas": list(seen.followed)}


def _failed(registry: Registry, changed: Changed, alias: str, seen: Rollout) -> Exception:
    from ftray.errors import RolloutFailed
    from ftray.store.deployments.promotion import find_route

    name = changed.model.name
    now = find_route(registry, name, alias)  # brings the registry in line with the route
    parts = [
        f"replica {replica} refuses: {why.rstrip('.')}" for replica, why in seen.refused.items()
    ]
    if seen.undone and not parts:
        parts.append(seen.undone)
    if seen.waiting:
        parts.append(f"no word yet from {', '.join(seen.waiting)}")
    if seen.followed:
        parts.append(f"{', '.join(seen.followed)} follow")
    if now is None:
        fix = "another tool has taken the alias away: promote again if you still want to"
    elif seen.undone:
        fix = f"the alias is version {now.current.version} by now"
    else:
        fix = f"the alias stays version {now.current.version}; a replica tries again by itself"
    return RolloutFailed.of(
        f"{name}@{alias}", f"version {changed.model.version}", "; ".join(parts), fix
    )


def described(route: AliasDeployment) -> str:
    """Describe the route of an alias in one line."""
    parts = [f"version {route.current.version}"]
    if route.proven is not None and route.proven != route.current:
        parts.append(f"the last that proved itself is version {route.proven.version}")
    if route.refused is not None:
        parts.append(f"version {route.refused.stop.version} was refused: {route.refused.why}")
    if route.trial is not None:
        what = "copies of " if route.trial.shadow else ""
        share = f"{what}{route.trial.share:.0%} of the requests"
        parts.append(f"version {route.trial.stop.version} gets {share}")
    if route.ended:
        parts.append(route.ended)
    return "; ".join(parts)


def as_json(route: AliasDeployment) -> dict[str, Any]:
    trial, refused = route.trial, route.refused
    return {
        "version": route.current.version,
        "proven": None if route.proven is None else route.proven.version,
        "refused": refused and {"version": refused.stop.version, "why": refused.why},
        "trial": trial
        and {"version": trial.stop.version, "share": trial.share, "shadow": trial.shadow},
        "ended": route.ended,
    }
