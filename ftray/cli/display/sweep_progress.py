"""The progress of a sweep, from its events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ftray.cli.display.table import duration, short

Event = dict[str, Any]
_ENDED = ("done", "stopped", "failed")


class SweepProgress:
    """Counts trials and remembers the running ones. `higher`: whether a higher metric is better."""

    def __init__(self, event: Event, clock: Callable[[], float]) -> None:
        """event: {"kind": "sweep", "trials", "concurrent", "metric", "mode", "budget"}."""
        self._count, self._concurrent = event["trials"], event["concurrent"]
        self._metric, self._higher = event["metric"], event["mode"] != "min"
        self._budget = event["budget"]
        self._trials: dict[str, Event] = {}
        self._steps: dict[str, Event] = {}
        self._clock, self._began = clock, clock()

    def take(self, event: Event) -> str:
        """Take in the new state of a trial; return the line to print, empty where there is none."""
        self._trials[event["id"]] = event
        self._steps.pop(event["id"], None)
        return "" if event["status"] == "running" else _line(event)

    def step(self, event: Event) -> None:
        """Take in the progress of a running trial."""
        self._steps[event["trial"]] = event

    def parts(self) -> Sequence[str]:
        """Return the parts of the live line, the most important part first."""
        ended = sum(trial["status"] in _ENDED for trial in self._first())
        best = self._best()
        return [
            f"{ended} of {self._count} trials",
            *self._running(),
            f"best {best:.4f}" if best is not None else "",
            self._left(ended),
            self._spent(),
        ]

    def _first(self) -> list[Event]:
        """Return the trials of the search; the others are the finalists' runs with other seeds."""
        return [trial for name, trial in self._trials.items() if "." not in name]

    def _best(self) -> float | None:
        found = [t["metrics"]["best"] for t in self._trials.values() if "best" in t["metrics"]]
        known = [value for value in found if value == value]
        return (max if self._higher else min)(known, default=None)

    def _running(self) -> list[str]:
        shown = []
        for name, trial in self._trials.items():
            if trial["status"] != "running":
                continue
            at = self._steps.get(name)
            where = f" epoch {at['epoch']} step {at['step']}/{at['steps']}" if at else " starts"
            shown.append(f"trial {name}{where}")
        return shown

    def _left(self, ended: int) -> str:
        """Estimate the time left from the mean time of ended trials and the number that run at
        once."""
        done = [t for t in self._first() if t["status"] in _ENDED]
        if not done or ended >= self._count:
            return ""
        each = sum(trial["seconds"] for trial in done) / len(done)
        return f"ETA {duration(each * (self._count - ended) / self._concurrent)}"

    def _spent(self) -> str:
        """Return the used share of the budget that is nearest to its end."""
        hours = sum(trial["seconds"] for trial in self._trials.values()) / 3600
        hours *= self._budget.get("workers", 1)
        elapsed = max((trial["elapsed"] for trial in self._trials.values()), default=0.0)
        spent = {
            "minutes": max(elapsed, self._clock() - self._began) / 60,
            "worker_hours": hours,
            "cost": hours * (self._budget.get("price") or 0.0),
        }
        shares = [spent[n] / limit for n in spent if (limit := self._budget.get(n)) is not None]
        return f"budget {min(1.0, max(shares)):.0%} used" if shares else ""


def _line(event: Event) -> str:
    """Describe the new state of a trial, for the list above the live line."""
    config = "  ".join(f"{key.split('.')[-1]} {short(v)}" for key, v in event["config"].items())
    epochs = len(event["values"])
    took = f"{epochs} epoch{'' if epochs == 1 else 's'} in " if epochs else ""
    best = event["metrics"].get("best")
    found = f"best {best:.4f}" if best is not None else ""
    parts = [f"trial {event['id']}", config, found, f"{took}{duration(event['seconds'])}"]
    status = {"waiting": "paused, may go on"}.get(event["status"], event["status"])
    line = "  ".join(part for part in [*parts, status] if part)
    return f"{line}: {event['error']}" if event.get("error") else line
