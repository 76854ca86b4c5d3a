"""The trials of a sweep, from the events that its run recorded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ftray.reports.record import Event, RunRecord


@dataclass(frozen=True)
class Trial:
    """A trial. values: its metric after each epoch; best: the best of them, None before the first;
    segments: (begin, end) of the times in which it trained, in seconds since the search began."""

    name: str
    config: Mapping[str, Any]
    status: str
    seconds: float = 0.0
    values: tuple[float, ...] = ()
    best: float | None = None
    segments: tuple[tuple[float, float], ...] = ()
    memory: float | None = None
    error: str = ""

    @property
    def is_seed(self) -> bool:
        """Whether it repeats another trial with another seed."""
        return "." in self.name


def trials_of(run: RunRecord) -> list[Trial]:
    """Return the trials, best first: in the order that the sweep found, else by their best
    values."""
    found: dict[str, Trial] = {}
    curves: dict[str, dict[int, float]] = {}
    for event in run.of_kind("trial"):
        name = event["id"]
        before = found.get(name, Trial(name, event["config"], event["status"]))
        curve = curves.setdefault(name, {})
        curve |= _curve(event.get("points", ()), run.metric)
        found[name] = _after(before, event, curve)
    ended = {"running": "interrupted", "waiting": "paused"} if run.state != "running" else {}
    trials = [replace(t, status=ended.get(t.status, t.status)) for t in found.values()]
    return sorted(trials, key=_order(run))


def _after(trial: Trial, event: Event, curve: Mapping[int, float]) -> Trial:
    """Return the trial as it stands after an event."""
    seconds, elapsed = event["seconds"], event["elapsed"]
    spent = seconds - trial.seconds
    segment = ((max(0.0, elapsed - spent), elapsed),) if spent > 0 else ()
    metrics = event["metrics"]
    return replace(
        trial,
        config=event["config"],
        status=event["status"],
        seconds=seconds,
        values=tuple(curve[epoch] for epoch in sorted(curve)),
        best=_finite(metrics.get("best")),
        segments=trial.segments + segment,
        memory=metrics.get("memory", trial.memory),
        error=event.get("error", ""),
    )


def _curve(points: Iterable[Event], metric: str) -> dict[int, float]:
    found = {p["epoch"]: _finite(p.get(metric)) for p in points if p.get("kind") == "epoch"}
    return {epoch: value for epoch, value in found.items() if value is not None}


def _finite(value: Any) -> float | None:
    known = isinstance(value, (int, float)) and math.isfinite(value)
    return float(value) if known else None


def _order(run: RunRecord) -> Any:
    ranking: Sequence[str] = sweep_of(run).get("ranking", ())
    places = {name: place for place, name in enumerate(ranking)}
    sign = 1 if run.lower_is_better else -1

    def key(trial: Trial) -> tuple[float, float]:
        value = math.inf if trial.best is None else sign * trial.best
        return places.get(trial.name, math.inf), value

    return key


def sweep_of(run: RunRecord) -> Event:
    """Return the event in which the search told what it found; empty before its end."""
    found = run.of_kind("searched")
    return found[-1] if found else {}


def slots(trials: Sequence[Trial]) -> list[tuple[int, Trial, float, float]]:
    """Return each segment with the slot that it took, (slot, trial, begin, end): the lowest one
    that was free."""
    segments = sorted((begin, end, t.name, t) for t in trials for begin, end in t.segments)
    free: list[float] = []
    placed = []
    for begin, end, _, trial in segments:
        slot = next((n for n, at in enumerate(free) if at <= begin + 0.25), len(free))
        if slot == len(free):
            free.append(end)
        else:
            free[slot] = end
        placed.append((slot, trial, begin, end))
    return placed
