"""Schedulers choose the trial of a sweep to train next, as a function of all trial states."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from ftray.spec.schema import Spec
from ftray.spec.sections.tuning import Domain, TuneSpec
from ftray.tune.searchers import Config
from ftray.tune.trial_state import TrainUntil, TrialState

REDUCTION = 3
"""At each rung one trial in REDUCTION is promoted, and the next rung has REDUCTION times as many
epochs (Li et al. 2020)."""
QUARTER = 4
"""After each epoch one trial in QUARTER of a population is replaced by a clone of a better one."""


class Search(Protocol):
    """The view of a sweep that a scheduler receives."""

    spec: Spec
    section: TuneSpec

    @property
    def drawn(self) -> list[TrialState]:
        """The trials of the search in the order in which the searcher drew them."""
        ...

    @property
    def most_epochs(self) -> int: ...

    def new(self, until: Callable[[int], int] | None = None) -> TrainUntil | None:
        """Return the first segment of a trial that has not begun, up to epoch `until(number)`, or
        to the trial's last epoch without `until`; None when all trials have begun."""
        ...


def fifo(course: Search) -> TrainUntil | None:
    """Train every trial to its last epoch, in the order of the draws."""
    return course.new()


def asha(course: Search) -> TrainUntil | None:
    """Asynchronous successive halving (Li et al. 2020, algorithm 2). Promote a trial in the best
    third of the trials that reached its rung, from the highest rung down; without such a trial,
    begin a new one."""
    return _promotable(course.drawn, 1) or course.new(lambda number: 1)


def hyperband(course: Search) -> TrainUntil | None:
    """Hyperband (Li et al. 2018): successive halving in brackets that differ in their first rung,
    so that trials that improve late have a chance. New trials go to the brackets in turn."""
    graces = list(_rungs(1, course.most_epochs)) or [1]
    for number, grace in enumerate(graces):
        if promoted := _promotable(course.drawn[number :: len(graces)], grace):
            return promoted
    return course.new(lambda number: graces[number % len(graces)])


def median(course: Search) -> TrainUntil | None:
    """Median stopping (Golovin et al. 2017): after each epoch a trial continues unless its best
    metric is below the median of the other trials' best metrics at the same epoch."""
    for trial in course.drawn:
        if trial.waits and trial.values:
            epoch = len(trial.values)
            others = [t.at(epoch) for t in course.drawn if t is not trial and t.reached(epoch)]
            if len(others) < 2 or trial.values[-1] >= statistics.median(others):
                return TrainUntil(trial.trial, trial.config, epoch + 1)
    return course.new(lambda number: 1)


def pbt(course: Search) -> TrainUntil | None:
    """Population-based training (Jaderberg et al. 2017). All trials train side by side. After each
    epoch the worst quarter of the trials continues from checkpoints of the best quarter, with
    slightly changed values of the donor trials."""
    if begun := course.new(lambda number: 1):
        return begun
    everyone = [trial for trial in course.drawn if not trial.error]
    epoch = min((len(trial.values) for trial in everyone if not trial.over), default=0)
    ready = [trial for trial in everyone if trial.waits and len(trial.values) == epoch]
    ranked = sorted(everyone, key=lambda trial: -trial.at(epoch)) if ready else []
    quarter = max(1, len(ranked) // QUARTER) if len(ranked) > 1 else 0
    best, worst = ranked[:quarter], ranked[len(ranked) - quarter :]
    donors = [trial for trial in best if trial in ready]
    for trial in ready:
        # Clone before any donor trains its next epoch, as that replaces the donor's checkpoint.
        if trial in worst and trial.cloned < epoch and donors:
            source = random.Random(f"{course.spec.seed}/{trial.trial}/{epoch}")
            donor = source.choice(donors)
            config = _explored(donor.config, course.section.space, source)
            return TrainUntil(trial.trial, config, epoch + 1, donor.trial)
    return TrainUntil(ready[0].trial, ready[0].config, epoch + 1) if ready else None


SCHEDULERS: dict[str, Callable[[Search], TrainUntil | None]] = {
    "fifo": fifo,
    "asha": asha,
    "hyperband": hyperband,
    "median": median,
    "pbt": pbt,
}


def _explored(config: Config, space: Mapping[str, Domain], source: random.Random) -> Config:
    """Return `config` with each value of a continuous domain multiplied by 0.8 or 1.2, within the
    bounds of the domain."""
    changed = dict(config)
    for path, domain in space.items():
        if domain.is_continuous:
            low, high = domain.values
            changed[path] = min(max(config[path] * source.choice((0.8, 1.2)), low), high)
    return changed


def _promotable(trials: list[TrialState], grace: int) -> TrainUntil | None:
    most = max((trial.epochs for trial in trials), default=0)
    rungs = list(_rungs(grace, most))
    for number in reversed(range(len(rungs))):
        rung = rungs[number]
        above = rungs[number + 1] if number + 1 < len(rungs) else most
        reached = sorted((t for t in trials if t.reached(rung)), key=lambda t: -t.at(rung))
        for trial in reached[: len(reached) // REDUCTION]:
            if trial.waits and len(trial.values) == rung:
                return TrainUntil(trial.trial, trial.config, min(above, trial.epochs))
    return None


def _rungs(grace: int, most: int) -> Iterator[int]:
    """Yield the rungs: the epochs after which trials are compared."""
    while grace < most:
        yield grace
        grace *= REDUCTION
