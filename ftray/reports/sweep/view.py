"""Shows a sweep, from the record of its run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ftray.models.artifact.worth import name_of
from ftray.reports.figures import Chart, sparkline
from ftray.reports.page import duration, number
from ftray.reports.record import Event
from ftray.reports.run.view import RunView
from ftray.reports.sweep import charts
from ftray.reports.sweep.importance import FEWEST, Importance, importance
from ftray.reports.sweep.trials import Trial, sweep_of, trials_of
from ftray.reports.tables import Bar, Cell, Fact, Table, table_of

_FEW = 40
"""Trials below which the page warns of its estimates of importance."""
_BUDGET = {"minutes": "minutes", "worker_hours": "worker-hours", "cost": "cost"}


@dataclass(frozen=True)
class SweepView(RunView):
    """The sections of a sweep's page: those of the search, then those of its winner."""

    @property
    def sections(self) -> list[tuple[str, str]]:
        found = [("trials", "Trials"), ("keys", "Keys"), ("winner", "Winner")]
        return [*(found if self._known else found[:1]), *super().sections]

    @cached_property
    def trials(self) -> list[Trial]:
        return trials_of(self.run)

    @cached_property
    def _known(self) -> list[Trial]:
        """The trials with a result, best first."""
        return [trial for trial in self.trials if trial.best is not None]

    @property
    def _tune(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.run.spec["tune"]
        return found

    @property
    def _space(self) -> Mapping[str, Mapping[str, Any]]:
        found: Mapping[str, Mapping[str, Any]] = self._tune["space"]
        return found

    @cached_property
    def _told(self) -> Event:
        return sweep_of(self.run)

    @property
    def best_trial(self) -> Trial | None:
        return self._known[0] if self._known else None

    @property
    def search_facts(self) -> list[Fact]:
        return list(self._search_facts())

    def _search_facts(self) -> Iterator[Fact]:
        if best := self.best_trial:
            name = name_of(self.run.metric)
            yield Fact(f"best validation {name}", number(best.best), f"trial {best.name}")
        drawn = [trial for trial in self.trials if not trial.is_seed]
        count = self._tune.get("trials") or len(drawn)
        ended = (f"{n} {status}" for status, n in self._counts(drawn).items())
        yield Fact("trials", f"{len(drawn)} of {count}", ", ".join(ended))
        elapsed = self._elapsed
        if elapsed:
            hours = f"{self._hours:.3g} worker-hours"
            yield Fact("search", duration(elapsed), hours)
        epochs = sum(len(trial.values) for trial in self.trials)
        full = len(self.trials) * self.run.spec["train"]["epochs"]
        if epochs and "train.epochs" not in self._space:
            saved = f"of {full}: early stops saved {1 - epochs / full:.0%}"
            yield Fact("epochs trained", f"{epochs}", saved if epochs < full else "")

    def _counts(self, trials: list[Trial]) -> dict[str, int]:
        statuses = [trial.status for trial in trials]
        return {status: statuses.count(status) for status in dict.fromkeys(statuses)}

    @property
    def _elapsed(self) -> float:
        return max(
            (event["elapsed"] for event in self.run.of_kind("trial", "searched")), default=0.0
        )

    @property
    def _hours(self) -> float:
        workers: int = self._tune.get("workers", 1)
        return workers * sum(trial.seconds for trial in self.trials) / 3600

    @property
    def budget(self) -> list[Bar]:
        """The used part of each limit of tune.budget."""
        price = self.run.spec["scale"].get("price_per_worker_hour") or 0.0
        used = {"minutes": self._elapsed / 60, "worker_hours": self._hours}
        used["cost"] = used["worker_hours"] * price
        limits = {k: v for k, v in (self._tune.get("budget") or {}).items() if v is not None}
        return [
            Bar(_BUDGET[key], f"{used[key]:.3g} of {limit:g}", min(1.0, used[key] / limit))
            for key, limit in limits.items()
        ]

    @property
    def advice(self) -> str:
        found: str = self._told.get("advice", "")
        return found

    @property
    def depth_note(self) -> str:
        found: str = self._told.get("note", "")
        return found

    @property
    def depths(self) -> Table:
        depths = self._told.get("depths", [])
        rows = [
            [
                each["name"],
                each["trials"],
                each["metric"],
                "" if each["low"] is None else f"{each['low']:.4f} to {each['high']:.4f}",
                each["epoch_seconds"],
                each["memory"] and Cell(f"{each['memory'] / 1e9:.2f} GB", each["memory"]),
                each["worker_hours"],
                "take this" if each["recommended"] else "beaten" if each["beaten"] else "",
            ]
            for each in depths
        ]
        columns = ["trains", "trials", f"best {name_of(self.run.metric)}", "95 %", "s an epoch"]
        columns += ["memory", "worker-hours", ""]
        chosen = [place for place, each in enumerate(depths) if each["recommended"]]
        return table_of("Depths", columns, rows, chosen=chosen)

    @cached_property
    def overview(self) -> list[Chart]:
        """The front of depth, quality and cost, and the search over time."""
        if not self._known:
            return []
        of = (self.run.metric, self.run.lower_is_better)
        depths = self._told.get("depths")
        found = [charts.depth_front(depths, of[0])] if depths else []
        found += [charts.cost_front(self._known, *of), charts.best_so_far(self._known, *of)]
        return [*found, charts.timeline(self.trials, of[1])]

    @cached_property
    def table(self) -> Table:
        """All trials, best first."""
        curves = [value for trial in self.trials for value in trial.values]
        low, high = min(curves, default=0.0), max(curves, default=1.0)
        columns = ["trial", name_of(self.run.metric), "by epoch", "epochs", "status", "seconds"]
        columns += [key.removeprefix("train.") for key in self._space]
        has_errors = any(trial.error for trial in self.trials)
        rows = [
            [
                _name_cell(trial.name),
                trial.best,
                _curve(trial, low, high),
                len(trial.values),
                trial.status,
                Cell(f"{trial.seconds:.1f}", trial.seconds),
                *(_value(trial.config.get(key)) for key in self._space),
                *([trial.error] if has_errors else []),
            ]
            for trial in self.trials
        ]
        columns += ["error"] if has_errors else []
        best = self.best_trial
        chosen = [n for n, trial in enumerate(self.trials) if trial is best]
        long = [len(columns) - 1] if has_errors else []
        return table_of("Trials", columns, rows, long=long, chosen=chosen, sortable=True)

    @cached_property
    def key_charts(self) -> list[Chart]:
        if len(self._known) < 2:
            return []
        of = (self._space, self.run.metric)
        lines = charts.parallel(self._known, *of, self.run.lower_is_better)
        return [lines, *charts.slices(self._known, *of)]

    @cached_property
    def _importance(self) -> Importance | None:
        return importance(self.trials, self._space)

    @property
    def importances(self) -> list[Bar]:
        found = self._importance
        if found is None:
            return []
        most = max(found.shares.values()) or 1.0
        return [
            Bar(key.removeprefix("train."), f"{share:.0%}", share / most)
            for key, share in found.shares.items()
        ]

    @property
    def importance_note(self) -> str:
        found = self._importance
        if found is None:
            return f"Which key matters cannot be told from fewer than {FEWEST} trials with results."
        lead = f"Permutation importance in a random forest over {found.trials} trials. "
        if found.explained <= 0:
            return f"{lead}It predicts new trials no better than a mean: read nothing into this."
        said = f"{lead}It explains {found.explained:.0%} of the differences between new trials"
        few = found.trials < _FEW
        return f"{said}{': so few tell little more than which key comes first' if few else ''}."

    @property
    def winner(self) -> list[tuple[str, Any]]:
        best = self.best_trial
        if best is None:
            return []
        refit = "trained again at full scale" if self._tune.get("refit") else "its own checkpoint"
        return [("trial", f"{best.name}, {refit}"), *best.config.items()]


def _curve(trial: Trial, low: float, high: float) -> Any:
    if not trial.values:
        return ""
    drawn = sparkline(trial.values, low, high, stopped=trial.status == "stopped")
    return Cell(drawn, len(trial.values))


def _name_cell(name: str) -> Cell:
    """Trials are sorted as numbers, and the seeds of one after it."""
    first, _, seed = name.partition(".")
    return Cell(name, float(first) + float(seed or 0) / 1000 if first.isdigit() else name)


def _value(value: Any) -> Any:
    if isinstance(value, float):
        return Cell(f"{value:.3g}", value)
    return value if value is None or isinstance(value, (int, str)) else str(value)
