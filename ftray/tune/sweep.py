"""Runs a sweep: trains trials over the search space, then the winner at full scale, and registers
the winner."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ftray.cluster import capacity
from ftray.data.encoding.encoded import QUARANTINE
from ftray.errors import NotTrainable
from ftray.reports.write import write_report
from ftray.spec.load import override
from ftray.spec.sections.tuning import TuneSpec
from ftray.store.runs.folder import RunFolder
from ftray.store.runs.metrics import ENCODING
from ftray.train.check import ValidatedSpec
from ftray.train.distributed.events import Event, Listener, stage
from ftray.train.inputs import claimed, pinned, with_own_deepspeed
from ftray.train.progress import BEST
from ftray.train.ray.local_worker import local_worker
from ftray.train.record.lines import Lines
from ftray.train.record.record import recorded
from ftray.train.record.values import track
from ftray.train.resources import check_scale, trial_resources
from ftray.train.run import (
    PreparedRun,
    Trained,
    both,
    export_trial,
    fit_run,
    prepare,
    promoted,
    register_run,
    report,
    tell_of_better,
)
from ftray.train.trunk_cache.build import prepare_trunk
from ftray.train.trunk_cache.cache import TrunkCache
from ftray.tune.depth import Comparison, compare_depths
from ftray.tune.search import recall, search
from ftray.tune.space import depth_variants, trial_spec
from ftray.tune.study import Study
from ftray.tune.tracked import TrackedTrials, points_of
from ftray.tune.trial import Sweep
from ftray.tune.trial_state import TrialState
from ftray.tune.wording import told as told_sweep


@dataclass(frozen=True)
class Tuned:
    """A finished sweep: the table of trials (best first), the registered model of the winner, and
    the comparison of depths."""

    trials: tuple[TrialState, ...]
    trained: Trained
    depths: Comparison

    def to_json(self) -> dict[str, Any]:
        return {
            **self.trained.to_json(),
            "trials": [trial.to_json() for trial in self.trials],
            "depths": [depth.to_json() for depth in self.depths.depths],
        }


def tune(
    checked: ValidatedSpec,
    say: Callable[[str], None] = lambda line: None,
    listener: Listener = lambda event: None,
) -> Tuned:
    """Run the sweep of the spec's `tune` section, then register its winner. Needs Ray.

    `say` receives lines for the user. `listener` receives the events of the trials, then those of
    the winner's training. Raises FtrayError; NotTrainable when no trial could train.
    """
    started, began, say = time.perf_counter(), time.time(), Lines(say)
    section = checked.spec.tune
    assert section is not None, "check_sweep lets no such spec pass"
    concurrent = _check_room(checked, section)
    listener(stage(ENCODING))
    registry_is_open = checked.registry.open_ahead()
    asked, checked = checked, pinned(checked, "tune")
    prepared = _prepared(checked, say)
    spec = checked.spec
    run = claimed(asked, checked, "tune", say)
    with recorded(checked.root, spec, run, say) as record:
        record.attach(prepared.data.location / QUARANTINE)
        watcher = both(TrackedTrials(record.tracker, spec), listener)
        told = both(record, watcher)
        record({**stage(ENCODING), "at": began})
        course = Study(spec)
        recall(course, run.metrics())
        epochs = (section.count + section.refit) * course.most_epochs
        trunks = prepare_trunk(
            prepared.for_trunk(depth_variants(spec), epochs), say, both(record, listener)
        )
        own = with_own_deepspeed(spec, run)
        sweep = Sweep(own, prepared.data, run.location / "kept", trunks, run.fence)
        say(_plan(course, concurrent))
        both(record, listener)(_plan_event(course, concurrent))
        registry_is_open()
        record(stage("searching: the trials"))
        search(sweep, course, concurrent, told, watcher)
        best = winner(course, say)
        won = override(spec, best.config) if section.refit else trial_spec(spec, best.config)
        whole = prepared.with_spec(won)
        run.write_spec(won)  # the run's model has the winner's values
        record.trained(won)
        record.tracker.run.tag({"winner": f"trial {best.trial}"})
        table = course.table()
        found = compare_depths(course, len(prepared.data.load("validation")))
        record(told_sweep(course, found, concurrent))
        write_report(checked.root, run)  # before the refit, which may take as long as the search
        told_rows = tuple(trial.to_json() for trial in table)
        if section.refit:
            say(f"trial {best.trial} is trained again at full scale: the refit")
            exporting = _refitted(whole, run, trunks, told, told_rows)
        else:
            for point in points_of(run.metrics(), best.trial):
                track(record.tracker.run, point)
            folder = sweep.checkpoints(best.trial)
            exporting = export_trial(whole, run, folder, told_rows, both(record, listener))
        trained = register_run(whole, run, started, exporting, record, listener)
        report(prepared, run, record)
        tell_of_better(checked, trained, say)
    return Tuned(table, promoted(checked, trained, say), found)


def _prepared(checked: ValidatedSpec, say: Callable[[str], None]) -> PreparedRun:
    """Encode the data; `say` receives what was found in them."""
    for line in checked.dataset.report.lines():
        say(line)
    prepared = prepare(checked)
    for line in prepared.data.lines():
        say(line)
    return prepared


def _refitted(
    whole: PreparedRun,
    run: RunFolder,
    trunks: tuple[TrunkCache, ...],
    listener: Listener,
    trials: tuple[dict[str, Any], ...],
) -> float:
    """Train the winner's spec at full scale, and export it. Returns the seconds that the export
    took."""
    with local_worker(whole.checked.spec) as worker:
        return fit_run(replace(whole, worker=worker), run, trunks, listener, trials)


def _plan(course: Study, concurrent: int) -> str:
    known = sum(trial.over or bool(trial.error) for trial in course.drawn)
    ended = f", {known} of them ended before" if known else ""
    return f"{course.section.count} trials{ended}, {concurrent} side by side"


def _plan_event(course: Study, concurrent: int) -> Event:
    """Return the event that gives a progress display the sweep's limits at the start."""
    section, train = course.section, course.spec.train
    limits = dict(section.budget)
    price = course.spec.scale.price_per_worker_hour
    return {
        "kind": "plan",
        "trials": section.count,
        "concurrent": concurrent,
        "metric": train.metric,
        "mode": train.metric_mode,
        "budget": {**limits, "workers": section.workers, "price": price},
    }


def _check_room(checked: ValidatedSpec, section: TuneSpec) -> int:
    """Return how many trials run side by side. Raises ClusterError if the cluster has no room for
    one trial, or for the refit."""
    each = trial_resources(checked.spec)
    capacity.require(section.workers, each, "tune.workers")
    if section.refit:
        check_scale(checked.spec)
    return max(1, min(section.count, capacity.most_slots(each) // section.workers))


def winner(course: Study, say: Callable[[str], None]) -> TrialState:
    """Return the best trial and tell the user. Raises NotTrainable when no trial could train."""
    if spent := course.spent:
        say(f"{spent} is used up: {len(course.drawn)} of {course.section.count} trials began")
    ranking = course.ranking()
    if not ranking or ranking[0].value is None:
        first = f"; the first said: {ranking[0].error}" if ranking else ""
        raise NotTrainable.of(
            "tune",
            f"{len(ranking)} trials",
            f"none could train{first}",
            "mend that, or narrow tune.space" if first else "raise tune.budget",
        )
    best, metric = ranking[0], course.spec.train.metric
    seeds = len(course.seeds_of(best))
    over = f", {abs(course.mean(best)):.4f} over {seeds} seeds" if seeds > 1 else ""
    say(f"trial {best.trial} wins: {metric} {best.metrics[BEST]:.4f}{over}")
    return best
