"""One trial, in a process that runs one trial after the other.

A trial with one worker calls the training loop right here, so that it costs its steps and not the
start of a worker group. A trial with several workers starts a group of its own.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from ftray.data.encode import EncodedDataset
from ftray.errors import FtrayError
from ftray.spec.schema import ModelSpec, Spec
from ftray.store.location import Location
from ftray.train import loop
from ftray.train.checkpoints import Keeper
from ftray.train.fit import fit_workers
from ftray.train.process import settle
from ftray.train.progress import BEST, Progress
from ftray.train.ranks import alone
from ftray.train.trunk import TrunkCache
from ftray.train.worker import Base, Job, build, load_base
from ftray.tune.space import trial_spec

ERROR = "error"
"""Reported instead of metrics by a trial that could not train: why."""


@dataclass(frozen=True)
class Sweep:
    """What every trial is told."""

    spec: Spec
    data: EncodedDataset
    kept: Location
    """Where trials keep their checkpoints, and their groups of workers what Ray Train keeps."""
    trunks: tuple[TrunkCache, ...] = ()

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
        tune.report({"epoch": 0, BEST: worst, ERROR: str(error)})


def checkpoint_folder(kept: Location, trial_id: str) -> Location:
    """Where a trial keeps its checkpoints."""
    return kept / trial_id / "checkpoints"


class _Reporter:
    """Tells Tune of each epoch, and of nothing else: a trial has nobody who watches its steps."""

    def phase(self, progress: Progress) -> None: ...

    def alive(self) -> None: ...

    def step(self, event: dict[str, Any]) -> None: ...

    def epoch(self, metrics: dict[str, Any]) -> None:
        from ray import tune

        tune.report(metrics)

    def warn(self, line: str) -> None: ...

    def stopping(self) -> bool:
        return False


def _train_here(spec: Spec, sweep: Sweep) -> None:
    from ray import tune

    settle(spec)
    pristine = _pristine(spec.model, spec.task, spec.seed, sweep.data.labels, spec.train.dropout)
    base = replace(pristine, model=copy.deepcopy(pristine.model))
    setup, progress = build(spec, sweep.data, base, alone(), None, sweep.trunks)
    folder = checkpoint_folder(sweep.kept, tune.get_context().get_trial_id())
    keeper = Keeper(spec.train.checkpoint, folder if sweep.keeps_checkpoints else None, writes=True)
    try:
        loop.run(setup, progress, keeper, _Reporter())
    finally:
        keeper.wait()
        setup.phased.close()


def _train_in_group(spec: Spec, sweep: Sweep) -> None:
    from ray import tune
    from ray.tune.integration.ray_train import TuneReportCallback

    trial = tune.get_context().get_trial_id()
    job = Job(spec, sweep.data, checkpoint_folder(sweep.kept, trial), trunks=sweep.trunks)
    # Tune starts a trial again whose workers died. If Train did as well, it would do so while Tune
    # is ending the trial.
    fit_workers(job, sweep.kept / trial / "ray-train", 0, [TuneReportCallback()])


@lru_cache(maxsize=1)
def _pristine(
    model: ModelSpec, task: str, seed: int, labels: tuple[str, ...], dropout: float | None
) -> Base:
    """The base model, read from disk once for all trials of this process."""
    return load_base(model, task, seed, labels, dropout)
