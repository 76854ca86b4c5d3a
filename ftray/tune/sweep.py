"""A sweep: trials over the search space, the winner trained at full scale and registered."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ftray import cluster
from ftray.errors import RunFailed
from ftray.spec.load import override
from ftray.spec.schema import TuneSpec
from ftray.train.channel import Listener
from ftray.train.check import Checked
from ftray.train.progress import BEST
from ftray.train.record import recorded
from ftray.train.run import Trained, both, claim_run, export_and_register, fit_run, prepare
from ftray.train.scale import check_scale, worker_resources
from ftray.train.trunk_build import prepare_trunk
from ftray.tune.search import search
from ftray.tune.space import depth_variants, most_epochs
from ftray.tune.table import Trial
from ftray.tune.trial import Sweep


@dataclass(frozen=True)
class Tuned:
    """A finished sweep: its table, best first, and the model that the winner became."""

    trials: tuple[Trial, ...]
    trained: Trained

    def to_json(self) -> dict[str, Any]:
        return {**self.trained.to_json(), "trials": [trial.to_json() for trial in self.trials]}


def tune(
    checked: Checked,
    say: Callable[[str], None] = lambda line: None,
    listener: Listener = lambda event: None,
) -> Tuned:
    """Run the sweep of the spec's `tune` section, then register its winner. Needs Ray.

    `say` gets lines for a person, `listener` an event when a trial ends and then the winner's
    training events. Raises FtrayError; RunFailed when no trial could train.
    """
    started = time.perf_counter()
    spec, section = checked.spec, checked.spec.tune
    assert section is not None, "check_sweep lets no such spec pass"
    concurrent = _check_room(checked, section)
    for line in checked.dataset.report.lines():
        say(line)
    prepared = prepare(checked)
    run = claim_run(checked.root, spec, "tune", say)
    with recorded(checked.root, spec, run) as record:
        told = both(record, listener)
        passes = (section.trials + section.refit) * most_epochs(spec)
        trunks = prepare_trunk(prepared.for_trunk(depth_variants(spec), passes), say)
        sweep = Sweep(spec, prepared.data, run.location / "kept", trunks)
        say(f"{section.trials} trials, {concurrent} side by side")
        trials, checkpoint = search(sweep, section, run.location / "trials", concurrent, told)
        _check_winner(trials)
        say(f"trial {trials[0].id} wins: {spec.train.metric} {trials[0].metrics[BEST]:.4f}")
        winner = prepared.with_spec(override(spec, trials[0].config))
        seconds = 0.0
        if section.refit:
            checkpoint, seconds = fit_run(winner, run, trunks, told)
        table = tuple(trial.to_json() for trial in trials)
        trained = export_and_register(winner, run, checkpoint, table, started, seconds)
        return Tuned(trials, trained)


def _check_room(checked: Checked, section: TuneSpec) -> int:
    """How many trials run side by side. Raises ClusterError when not one fits, or the refit not."""
    each = worker_resources(checked.spec)
    cluster.require(section.workers, each, "tune.workers")
    if section.refit:
        check_scale(checked.spec)
    return max(1, min(section.trials, cluster.slots(each) // section.workers))


def _check_winner(trials: tuple[Trial, ...]) -> None:
    if trials[0].status == "failed":
        raise RunFailed.of(
            "tune",
            f"{len(trials)} trials",
            f"none could train; the first said: {trials[0].error}",
            "mend that, or narrow tune.space",
        )
