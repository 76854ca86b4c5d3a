"""One trial, in a process that runs one trial after the other.

A trial with one worker calls the training loop right here, so that it costs its steps and not the
start of a worker group. A trial with several workers starts a group of its own.
"""

from __future__ import annotations

import copy
import math
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ftray.data.encode import EncodedDataset
from ftray.errors import FtrayError
from ftray.spec.schema import ModelSpec, Spec
from ftray.store.location import Location
from ftray.train import loop
from ftray.train.fit import fit_workers
from ftray.train.process import settle
from ftray.train.progress import BEST, BEST_RANK
from ftray.train.ranks import alone
from ftray.train.worker import Base, Job, build, load_base
from ftray.tune.space import trial_spec

ERROR = "error"
"""Reported instead of metrics by a trial that could not train: why."""


@dataclass(frozen=True)
class Sweep:
    """What every trial is told."""

    spec: Spec
    data: EncodedDataset
    groups: Location
    """Where trials with several workers keep their checkpoints."""

    @property
    def keeps_checkpoints(self) -> bool:
        """Needed only where the winner is not trained again."""
        assert self.spec.tune is not None
        return not self.spec.tune.refit


def run_trial(config: dict[str, Any], sweep: Sweep) -> None:
    """Train with the values of `config` (dotted path -> value), reporting each epoch to Tune.

    A trial that cannot train (it diverged, its values do not fit the model) reports why and ends;
    the sweep goes on.
    """
    from ray import tune

    spec = trial_spec(sweep.spec, config)
    try:
        if spec.scale.workers == 1:
            _train_here(spec, sweep)
        else:
            _train_in_group(spec, sweep)
    except FtrayError as error:
        worst = math.inf if spec.train.metric_mode == "min" else -math.inf
        tune.report({"epoch": 0, BEST: worst, BEST_RANK: -1.0, ERROR: str(error)})


def group_folder(groups: Location, trial_id: str) -> Location:
    """Where the workers of one trial keep their checkpoints."""
    return groups / trial_id / "checkpoints"


def _train_here(spec: Spec, sweep: Sweep) -> None:
    from ray import tune

    settle(spec)
    pristine = _pristine(spec.model, spec.task, spec.seed, sweep.data.labels)
    base = Base(copy.deepcopy(pristine.model), pristine.pad_id)
    setup, progress = build(spec, sweep.data, base, alone(), None)

    def report(metrics: dict[str, Any], save: loop.Save) -> None:
        entry = {**metrics, **progress.standing()}
        if not sweep.keeps_checkpoints:
            tune.report(entry)
            return
        with tempfile.TemporaryDirectory(prefix="ftray-checkpoint-") as folder:
            save(Path(folder))
            tune.report(entry, checkpoint=tune.Checkpoint.from_directory(folder))

    try:
        loop.run(setup, progress, report, lambda event: None)
    finally:
        setup.engine.close()


def _train_in_group(spec: Spec, sweep: Sweep) -> None:
    from ray import tune
    from ray.tune.integration.ray_train import TuneReportCallback

    folder = group_folder(sweep.groups, tune.get_context().get_trial_id())
    # Tune starts a trial again whose workers died. If Train did as well, it would do so while Tune
    # is ending the trial.
    fit_workers(Job(spec, sweep.data), folder, 0, [TuneReportCallback()])


@lru_cache(maxsize=1)
def _pristine(model: ModelSpec, task: str, seed: int, labels: tuple[str, ...]) -> Base:
    """The base model, read from disk once for all trials of this process."""
    return load_base(model, task, seed, labels)
