"""The search as Ray Tune runs it: its configuration, and its results as the sweep's table."""

from __future__ import annotations

from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator

from ftray.cluster import release
from ftray.spec.schema import Spec, TuneSpec
from ftray.store.location import Location
from ftray.train import checkpoints
from ftray.train.channel import Listener
from ftray.train.progress import BEST
from ftray.train.scale import worker_resources
from ftray.train.worker import GROUP
from ftray.tune.space import most_epochs, param_space
from ftray.tune.table import Trial, rank, trial_row
from ftray.tune.trial import Sweep, checkpoint_folder, run_trial

# ASHA keeps one in three trials at each rung; the first rung is one epoch (Li et al. 2020).
_REDUCTION = 3


def search(
    sweep: Sweep, section: TuneSpec, folder: Location, concurrent: int, listener: Listener
) -> tuple[tuple[Trial, ...], Location | None]:
    """Run all trials, `concurrent` side by side; what Ray Tune keeps goes below `folder`.

    Returns the table, best first, and the winner's checkpoint if trials keep theirs. The listener
    gets {"kind": "trial", ...} when a trial ends.
    """
    spec = sweep.spec
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(run_trial, sweep=sweep), _trial_resources(spec, section)
        ),
        param_space=param_space(section),
        tune_config=_tune_config(spec, section, concurrent),
        run_config=_run_config(spec, folder, _Announcer(spec, listener)),
    )
    grid = tuner.fit()
    results = [grid[i] for i in range(len(grid))]
    rows = [_row(result, spec) for result in results]
    order = sorted(range(len(rows)), key=lambda i: rank(rows[i], spec))
    trials = tuple(rows[i] for i in order)
    if section.refit or trials[0].status == "failed":
        return trials, None
    return trials, checkpoints.best(checkpoint_folder(sweep.kept, trials[0].id))


def _trial_resources(spec: Spec, section: TuneSpec) -> tune.PlacementGroupFactory:
    """Of the trial's own process: all that its one worker needs, or next to nothing (Ray refuses
    nothing at all) beside its group of workers."""
    if section.workers == 1:
        return tune.PlacementGroupFactory([worker_resources(spec).bundle()])
    return tune.PlacementGroupFactory([{"memory": 1}])


def _tune_config(spec: Spec, section: TuneSpec, concurrent: int) -> tune.TuneConfig:
    return tune.TuneConfig(
        metric=BEST,
        mode=spec.train.metric_mode,
        num_samples=section.trials,
        search_alg=BasicVariantGenerator(random_state=spec.seed, max_concurrent=concurrent),
        scheduler=_scheduler(spec, section),
        # A process that has run a trial has imported everything for the next one.
        reuse_actors=section.workers == 1,
    )


def _scheduler(spec: Spec, section: TuneSpec) -> TrialScheduler:
    epochs = most_epochs(spec)
    if section.scheduler == "fifo" or epochs == 1:
        return FIFOScheduler()
    return ASHAScheduler(
        time_attr="epoch", max_t=epochs, grace_period=1, reduction_factor=_REDUCTION
    )


def _run_config(spec: Spec, folder: Location, announcer: tune.Callback) -> tune.RunConfig:
    return tune.RunConfig(
        name=folder.name,
        storage_path=folder.parent.path,
        storage_filesystem=folder.fs,
        callbacks=[announcer],
        failure_config=tune.FailureConfig(max_failures=spec.scale.max_failures),
        verbose=0,
    )


def _row(result: Any, spec: Spec) -> Trial:
    last = result.metrics or {}
    error = str(result.error) if result.error else ""
    return trial_row(last.get("trial_id", "?"), result.config or {}, last, error, spec)


class _Announcer(tune.Callback):
    """Tells the listener of each trial that ends."""

    def __init__(self, spec: Spec, listener: Listener) -> None:
        self.spec = spec
        self.listener = listener

    def __getstate__(self) -> dict[str, Any]:
        # Tune keeps its callbacks on disk; the listener belongs to this process.
        return {"spec": self.spec, "listener": None}

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if group := (trial.last_result or {}).get(GROUP):
            # Tune ends the trial's process, and with it Train's controller, before that could.
            release(group)
        self._tell(trial, "")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell(trial, "its process died")

    def _tell(self, trial: Any, error: str) -> None:
        row = trial_row(trial.trial_id, trial.config, trial.last_result or {}, error, self.spec)
        self.listener({"kind": "trial", **row.to_json()})
