"""Waits until the replicas that serve an alias have followed a change of its route."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ftray.store.deployments.reports import Report, Roll
from ftray.store.deployments.route_file import read_route
from ftray.store.deployments.routes import AliasDeployment
from ftray.store.root import Root

_LOOK_EVERY_S = 0.5


@dataclass(frozen=True)
class Rollout:
    """Outcome of a change of route. refused: replica -> its reason; waiting: replicas that have
    neither followed nor refused; undone: why the route was changed again, else empty."""

    followed: tuple[str, ...]
    refused: dict[str, str]
    waiting: tuple[str, ...]
    undone: str

    @property
    def done(self) -> bool:
        return not (self.refused or self.waiting or self.undone)


def await_rollout(
    root: Root,
    name: str,
    alias: str,
    wanted: AliasDeployment,
    seconds: float,
    say: Callable[[str], None],
) -> Rollout:
    """Wait until every replica follows `wanted` or refuses to, at most `seconds`."""
    roll, until, said = Roll(root, name, alias), time.monotonic() + seconds, False
    while True:
        route = read_route(root, name, alias)
        assert route is not None, "no route is ever deleted"
        seen = _sorted_out(route, wanted, roll.call())
        left = until - time.monotonic()
        if seen.undone or not seen.waiting or left <= 0:
            return seen
        if not said:
            said = True
            names = ", ".join(seen.waiting)
            say(f"waiting up to {seconds:g} s for the replicas of {name}@{alias}: {names}")
        time.sleep(min(_LOOK_EVERY_S, left))


def _sorted_out(route: AliasDeployment, wanted: AliasDeployment, reports: list[Report]) -> Rollout:
    followed, waiting, refused = [], [], {}
    for report in reports:
        no = report.refused
        if no is not None and (no.since, no.trial) == (wanted.since, _trial(wanted)):
            refused[report.replica] = no.why
        elif (report.since, _trial(report)) == (wanted.since, _trial(wanted)):
            followed.append(report.replica)
        else:
            waiting.append(report.replica)
    return Rollout(tuple(followed), refused, tuple(waiting), _undone(route, wanted))


def _trial(of: Report | AliasDeployment) -> str:
    return "" if of.trial is None else of.trial.id


def _undone(route: AliasDeployment, wanted: AliasDeployment) -> str:
    if route.refused is not None and route.refused.since == wanted.since:
        return route.refused.why
    if route.since != wanted.since:
        return f"another process has promoted version {route.current.version} meanwhile"
    if _trial(route) != _trial(wanted):
        return route.ended or "another process has begun a trial meanwhile"
    return ""
