"""The study of a sweep: decides which trial to train next and up to which epoch.

This module decides only; it has no side effects. A trial trains in segments. Each segment resumes
from the checkpoint of the segment before and ends after some epoch. So a trial that does not look
good enough waits without a cost, and may continue later.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from ftray.spec.schema import Spec
from ftray.spec.sections.tuning import TuneSpec
from ftray.train.progress import MEMORY
from ftray.tune.schedulers import SCHEDULERS
from ftray.tune.searchers import SEARCHERS, Config
from ftray.tune.space import work
from ftray.tune.trial_state import Outcome, TrainUntil, TrialState


@dataclass
class Study:
    """The state of a sweep: all trial states; `next` returns the segment to train next."""

    spec: Spec
    clock: Callable[[], float] = time.monotonic
    trials: dict[str, TrialState] = field(default_factory=dict)
    spent_before: float = 0.0
    """Seconds that earlier drivers of this sweep spent."""

    def __post_init__(self) -> None:
        assert self.spec.tune is not None
        self.section: TuneSpec = self.spec.tune
        self._began = self.clock()

    def next(self) -> TrainUntil | None:
        """Return the segment to train now; None if the decision must wait for running segments, or
        if the sweep is over."""
        if not self.spent and (found := SCHEDULERS[self.section.scheduler](self)):
            return found
        return self._rerun()

    @property
    def most_epochs(self) -> int:
        """Return the number of epochs of the longest possible trial."""
        domain = self.section.space.get("train.epochs")
        return max(domain.values) if domain else self.spec.train.epochs

    @property
    def running(self) -> bool:
        return any(trial.running for trial in self.trials.values())

    @property
    def over(self) -> bool:
        return not self.running and self.next() is None

    def begin(self, segment: TrainUntil) -> None:
        trial = self.trials.get(segment.trial) or self.standing(segment.trial, segment.config)
        cloned = len(trial.values) if segment.donor else trial.cloned
        self.trials[segment.trial] = replace(
            trial, config=segment.config, running=True, cloned=cloned
        )

    def standing(self, trial: str, config: Config) -> TrialState:
        """Return the state of a trial that has not begun."""
        return TrialState(trial, config, config.get("train.epochs", self.spec.train.epochs))

    def end(self, segment: TrainUntil, outcome: Outcome) -> None:
        trial = self.trials[segment.trial]
        self.trials[segment.trial] = replace(
            trial,
            # Keep the trial's own values up to the epoch at which it was cloned from another trial.
            values=trial.values[: trial.cloned] + outcome.values[trial.cloned :],
            metrics=_with_peak(outcome.metrics, trial.metrics),
            seconds=trial.seconds + outcome.seconds,
            running=False,
            over=outcome.over,
            error=outcome.error,
        )

    @property
    def drawn(self) -> list[TrialState]:
        """Return the trials of the search in the order of their draws, without the trials that
        repeat finalists with other seeds."""
        return [trial for trial in self.trials.values() if "." not in trial.trial]

    @property
    def elapsed(self) -> float:
        """Return the seconds since the search began, including those of earlier drivers."""
        return self.spent_before + self.clock() - self._began

    @property
    def spent(self) -> str:
        """Return the budget that is used up, as text; empty if none is."""
        budget, price = self.section.budget, self.spec.scale.price_per_worker_hour
        hours = self.section.workers * sum(t.seconds for t in self.trials.values()) / 3600
        spent = {"minutes": self.elapsed / 60, "worker_hours": hours, "cost": hours * (price or 0)}
        for name, limit in budget:
            if limit is not None and spent[name] >= limit:
                return f"tune.budget.{name} = {limit:g}"
        return ""

    def new(self, until: Callable[[int], int] | None = None) -> TrainUntil | None:
        """Return the first segment of a new trial, or of a trial whose first segment was lost when
        an earlier driver was killed. The segment ends after epoch `until(number)`, or without
        `until` after the trial's last epoch. Returns None when all trials have begun."""
        drawn = self.drawn
        fresh = (n for n, trial in enumerate(drawn) if trial.waits and not trial.values)
        number = next(fresh, len(drawn))
        if number >= self.section.count:
            return None
        trial = drawn[number] if number < len(drawn) else self._draw(number)
        most = until(number) if until else trial.epochs
        return TrainUntil(trial.trial, trial.config, min(most, trial.epochs))

    def _draw(self, number: int) -> TrialState:
        tried = [(trial.config, trial.value) for trial in self.drawn]
        draw = SEARCHERS[self.section.searcher]
        place = self._order[number]
        return self.standing(str(number + 1), draw(self.section, self.spec.seed, place, tried))

    @cached_property
    def _order(self) -> Sequence[int]:
        """The numbers of the draws in the order in which trials begin.

        The longest trials begin first, so that at the end of the sweep no slot idles while a long
        trial that began late still runs. The order of the draws stays unchanged if a draw depends
        on earlier results (tpe), or if a budget may end the sweep early, which should then have
        covered the space evenly.
        """
        numbers = range(self.section.count)
        if self.section.searcher == "tpe" or any(
            limit is not None for _, limit in self.section.budget
        ):
            return numbers
        draw = SEARCHERS[self.section.searcher]
        drawn = [draw(self.section, self.spec.seed, number, ()) for number in numbers]
        return sorted(numbers, key=lambda number: -work(self.spec, drawn[number]))

    def finalists(self) -> list[TrialState]:
        """Return the finalists, the trials that are repeated with other seeds, best first."""
        if self.section.finalists is None:
            return []
        known = [trial for trial in self.drawn if trial.value is not None]
        return sorted(known, key=_badness)[: self.section.finalists.trials]

    def seeds_of(self, trial: TrialState) -> list[TrialState]:
        """Return the trial and its repetitions with other seeds."""
        again = [t for t in self.trials.values() if t.trial.startswith(f"{trial.trial}.")]
        return [trial, *again]

    def mean(self, trial: TrialState) -> float:
        """Return the mean over the trial's seeds of the best metric, higher is better; -inf without
        any."""
        values = [t.value for t in self.seeds_of(trial)]
        known = [value for value in values if value is not None and not math.isnan(value)]
        return statistics.fmean(known) if known else -math.inf

    def ranking(self) -> list[TrialState]:
        """Return the trials of the search, best first: finalists ordered by the mean over their
        seeds, then all other trials, failed ones last."""
        finalists = sorted(self.finalists(), key=lambda trial: -self.mean(trial))
        rest = [trial for trial in self.drawn if trial not in finalists]
        return [*finalists, *sorted(rest, key=_badness)]

    def table(self) -> tuple[TrialState, ...]:
        """Return all trials, best first; the repetitions of a finalist with other seeds follow
        it."""
        return tuple(seed for trial in self.ranking() for seed in self.seeds_of(trial))

    def _rerun(self) -> TrainUntil | None:
        """Return a segment that trains a finalist to its last epoch or repeats it with another
        seed. Returns None while a trial outside the finalists still runs, as it could become one. A
        finalist may still run: the best metric of a trial never falls, so it stays a finalist."""
        if self.section.finalists is None or self.spent:
            return None
        finalists = self.finalists()
        if any(trial.running for trial in self.drawn if trial not in finalists):
            return None
        for trial in finalists:
            if trial.waits:
                return TrainUntil(trial.trial, trial.config, trial.epochs)
            for number in range(2, self.section.finalists.seeds + 1):
                name = f"{trial.trial}.{number}"
                known = self.trials.get(name)
                if known is None or known.waits:
                    seed = trial.config.get("seed", self.spec.seed) + number - 1
                    return TrainUntil(name, {**trial.config, "seed": seed}, trial.epochs)
        return None


def _with_peak(metrics: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    """Return the metrics of a trial's last segment, with the peak memory over all its segments."""
    held = [found[MEMORY] for found in (metrics, before) if MEMORY in found]
    return {**metrics, MEMORY: max(held)} if held else metrics


def _badness(trial: TrialState) -> float:
    value = trial.value
    return math.inf if value is None or math.isnan(value) else -value
