"""The course of a sweep: which trial is trained next, and how far. Decisions without effects.

A trial is trained in segments, each up to the end of some epoch, from the checkpoint that the one
before it left. So a trial that does not look good enough waits, costs nothing, and may go on later.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from ftray.spec.schema import Spec
from ftray.spec.tuning import TuneSpec
from ftray.tune.searchers import SEARCHERS, Config

REDUCTION = 3
"""One in so many goes on at each rung, and the next rung is so many times as high (Li et al.
2020)."""


@dataclass(frozen=True)
class Segment:
    """Train `trial` with `config` up to the end of epoch `until`, counted from 1."""

    trial: str
    config: Config
    until: int


@dataclass(frozen=True)
class Outcome:
    """What a trial came to with a segment. values: after each epoch the best metric so far, the
    higher the better; metrics: of the last epoch; over: there is nothing left to train."""

    values: tuple[float, ...]
    metrics: dict[str, float]
    seconds: float
    over: bool
    error: str = ""


@dataclass(frozen=True)
class Standing:
    """Where a trial stands. epochs: of the whole trial."""

    trial: str
    config: Config
    epochs: int
    values: tuple[float, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    running: bool = False
    over: bool = False
    error: str = ""

    @property
    def value(self) -> float | None:
        """The best metric so far; None for a trial that failed or was never evaluated."""
        return self.values[-1] if self.values and not self.error else None

    @property
    def waits(self) -> bool:
        """Whether it could go on."""
        return not (self.running or self.over or self.error)

    def reached(self, epoch: int) -> bool:
        return not self.error and (len(self.values) >= epoch or self.over)

    def at(self, epoch: int) -> float:
        """The best metric after `epoch` epochs, for a trial that came that far or was over."""
        return self.values[min(epoch, len(self.values)) - 1]


@dataclass
class Course:
    """All that a sweep has come to, and with `next` what follows from it."""

    spec: Spec
    clock: Callable[[], float] = time.monotonic
    trials: dict[str, Standing] = field(default_factory=dict)
    spent_before: float = 0.0
    """Seconds of earlier drivers of this sweep."""

    def __post_init__(self) -> None:
        assert self.spec.tune is not None
        self.section: TuneSpec = self.spec.tune
        self._began = self.clock()

    def next(self) -> Segment | None:
        """What to train now, None where that depends on what is still being trained or the sweep
        is over."""
        if not self.spent and (found := SCHEDULERS[self.section.scheduler](self)):
            return found
        return self._rerun()

    @property
    def most_epochs(self) -> int:
        """Of the longest trial."""
        domain = self.section.space.get("train.epochs")
        return max(domain.values) if domain else self.spec.train.epochs

    @property
    def running(self) -> bool:
        return any(trial.running for trial in self.trials.values())

    @property
    def over(self) -> bool:
        return not self.running and self.next() is None

    def begin(self, segment: Segment) -> None:
        trial = self.trials.get(segment.trial) or self.standing(segment.trial, segment.config)
        self.trials[segment.trial] = replace(trial, running=True)

    def standing(self, trial: str, config: Config) -> Standing:
        """Of a trial that has not begun."""
        return Standing(trial, config, config.get("train.epochs", self.spec.train.epochs))

    def end(self, segment: Segment, outcome: Outcome) -> None:
        trial = self.trials[segment.trial]
        self.trials[segment.trial] = replace(
            trial,
            values=outcome.values,
            metrics=outcome.metrics,
            seconds=trial.seconds + outcome.seconds,
            running=False,
            over=outcome.over,
            error=outcome.error,
        )

    @property
    def drawn(self) -> list[Standing]:
        """The trials of the search, in the order in which they were drawn."""
        return [trial for trial in self.trials.values() if "." not in trial.trial]

    @property
    def elapsed(self) -> float:
        """Seconds since the search began, those of earlier drivers included."""
        return self.spent_before + self.clock() - self._began

    @property
    def spent(self) -> str:
        """Which of the budgets is used up; empty while none is."""
        budget, price = self.section.budget, self.spec.scale.price_per_worker_hour
        hours = self.section.workers * sum(t.seconds for t in self.trials.values()) / 3600
        spent = {"minutes": self.elapsed / 60, "worker_hours": hours, "cost": hours * (price or 0)}
        for name, limit in budget:
            if limit is not None and spent[name] >= limit:
                return f"tune.budget.{name} = {limit:g}"
        return ""

    def new(self, until: Callable[[int], int] | None = None) -> Segment | None:
        """The beginning of one more trial, or of one that an earlier driver was killed over: to
        the end of the epoch that `until` gives for its number, or to its own end; None when all
        have begun."""
        drawn = self.drawn
        fresh = (n for n, trial in enumerate(drawn) if trial.waits and not trial.values)
        number = next(fresh, len(drawn))
        if number >= self.section.count:
            return None
        trial = drawn[number] if number < len(drawn) else self._draw(number)
        most = until(number) if until else trial.epochs
        return Segment(trial.trial, trial.config, min(most, trial.epochs))

    def _draw(self, number: int) -> Standing:
        tried = [(trial.config, trial.value) for trial in self.drawn]
        draw = SEARCHERS[self.section.searcher]
        return self.standing(str(number + 1), draw(self.section, self.spec.seed, number, tried))

    def finalists(self) -> list[Standing]:
        """Those of the search that are trained with other seeds too, best first."""
        if self.section.finalists is None:
            return []
        known = [trial for trial in self.drawn if trial.value is not None]
        return sorted(known, key=_badness)[: self.section.finalists.trials]

    def seeds_of(self, trial: Standing) -> list[Standing]:
        """The trial, and itself with other seeds."""
        again = [t for t in self.trials.values() if t.trial.startswith(f"{trial.trial}.")]
        return [trial, *again]

    def mean(self, trial: Standing) -> float:
        """Its best metric, the higher the better: over all its seeds."""
        values = [t.value for t in self.seeds_of(trial)]
        known = [value for value in values if value is not None and not math.isnan(value)]
        return statistics.fmean(known) if known else -math.inf

    def ranking(self) -> list[Standing]:
        """The trials of the search, best first: finalists by the mean over their seeds and before
        all others, then the rest, those that failed last."""
        finalists = sorted(self.finalists(), key=lambda trial: -self.mean(trial))
        rest = [trial for trial in self.drawn if trial not in finalists]
        return [*finalists, *sorted(rest, key=_badness)]

    def _rerun(self) -> Segment | None:
        """A finalist to its end, or with another seed, when it is known who the finalists are: a
        trial that goes on can only become better, so those among them may still be running."""
        if self.section.finalists is None or self.spent:
            return None
        finalists = self.finalists()
        if any(trial.running for trial in self.drawn if trial not in finalists):
            return None
        for trial in finalists:
            if trial.waits:
                return Segment(trial.trial, trial.config, trial.epochs)
            for number in range(2, self.section.finalists.seeds + 1):
                name = f"{trial.trial}.{number}"
                known = self.trials.get(name)
                if known is None or known.waits:
                    seed = trial.config.get("seed", self.spec.seed) + number - 1
                    return Segment(name, {**trial.config, "seed": seed}, trial.epochs)
        return None


def fifo(course: Course) -> Segment | None:
    """Every trial to its end, one after the other."""
    return course.new()


def asha(course: Course) -> Segment | None:
    """Asynchronous successive halving (Li et al. 2020, algorithm 2): promote a trial that is among
    the best third of those that reached its rung, from the highest rung down; else begin a new
    one."""
    return _promotable(course.drawn, 1) or course.new(lambda number: 1)


def hyperband(course: Course) -> Segment | None:
    """Successive halving in brackets that differ in their first rung (Li et al. 2018), trials
    dealt out in turn, so that slow starters have a chance."""
    graces = list(_rungs(1, course.most_epochs)) or [1]
    for number, grace in enumerate(graces):
        if promoted := _promotable(course.drawn[number :: len(graces)], grace):
            return promoted
    return course.new(lambda number: graces[number % len(graces)])


def median(course: Course) -> Segment | None:
    """Median stopping (Golovin et al. 2017): after each epoch a trial goes on unless its best is
    below the median of what the others had reached by then."""
    for trial in course.drawn:
        if trial.waits and trial.values:
            epoch = len(trial.values)
            others = [t.at(epoch) for t in course.drawn if t is not trial and t.reached(epoch)]
            if len(others) < 2 or trial.values[-1] >= statistics.median(others):
                return Segment(trial.trial, trial.config, epoch + 1)
    return course.new(lambda number: 1)


SCHEDULERS: dict[str, Callable[[Course], Segment | None]] = {
    "fifo": fifo,
    "asha": asha,
    "hyperband": hyperband,
    "median": median,
}


def _promotable(trials: list[Standing], grace: int) -> Segment | None:
    most = max((trial.epochs for trial in trials), default=0)
    rungs = list(_rungs(grace, most))
    for number in reversed(range(len(rungs))):
        rung = rungs[number]
        above = rungs[number + 1] if number + 1 < len(rungs) else most
        reached = sorted((t for t in trials if t.reached(rung)), key=lambda t: -t.at(rung))
        for trial in reached[: len(reached) // REDUCTION]:
            if trial.waits and len(trial.values) == rung:
                return Segment(trial.trial, trial.config, min(above, trial.epochs))
    return None


def _rungs(grace: int, most: int) -> Iterator[int]:
    """The epochs after which trials are compared."""
    while grace < most:
        yield grace
        grace *= REDUCTION


def _badness(trial: Standing) -> float:
    value = trial.value
    return math.inf if value is None or math.isnan(value) else -value
