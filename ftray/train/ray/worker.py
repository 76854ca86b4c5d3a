"""The training worker, one data-parallel rank: builds the run from its spec and starts the loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ftray.errors import Interrupted
from ftray.models.structure.placing import placed
from ftray.models.transformers_output import quiet_transformers
from ftray.store.root import Root
from ftray.tasks import get_task
from ftray.train import loop
from ftray.train.base import Base, load_base
from ftray.train.checkpoint import stored
from ftray.train.checkpoint.manager import CheckpointManager
from ftray.train.checkpoint.parts import WHOLE, Parts
from ftray.train.context import TrainContext, build, latest
from ftray.train.distributed.context import DistContext, alone, join_group
from ftray.train.distributed.outcomes import told_to_all_ranks
from ftray.train.distributed.preemption import Notices, no_notice, own_notice
from ftray.train.distributed.process import settle
from ftray.train.engine.deepspeed_config import shards_weights
from ftray.train.evaluation.baselines import Encoder, fit_baselines
from ftray.train.evaluation.boosting import fit_boosting
from ftray.train.export import export
from ftray.train.orders import WorkerArgs
from ftray.train.ray.reporter import Reporter

if TYPE_CHECKING:
    from ray.train import PreemptionInfo


def train_worker(config: dict[Any, Any]) -> Any:
    """Ray Train calls this function in each worker; `config` is {"job": WorkerArgs}.

    Returns the seconds that the export took. Raises one FtrayError that names the ranks that failed
    and their nodes. Interrupted is returned instead of raised, so that each rank ends on its own
    after it has finished writing.
    """
    from ray import train as ray_train

    return _run(config["job"], ray_train.report, own_notice)


def train_alone(job: WorkerArgs) -> Interrupted | float:
    """Train `job` as the only rank, in a process that Ray Train did not start; returns as
    `train_worker` does."""
    alone()
    return _run(job, lambda metrics: None, no_notice)


def _run(
    job: WorkerArgs,
    report: Callable[[dict[str, Any]], None],
    notice: Callable[[], PreemptionInfo | None],
) -> Interrupted | float:
    """Join the process group, train, and export where `job` asks for it.

    report: called after each epoch on every rank; notice: returns the pending preemption notice.
    """
    with told_to_all_ranks():
        settle(job.spec)
        ranks = join_group()
        observer = Reporter(job, ranks, report)
        try:
            if job.export is None or not _is_trained(job, ranks, observer):
                _train(job, ranks, observer, Notices(observer.warn, notice))
            started = time.perf_counter()
            if job.export is not None:
                with quiet_transformers():
                    export(job.export, ranks, partial(_tell_export, job, ranks, observer))
            return time.perf_counter() - started
        except Interrupted as error:
            return error
        finally:
            observer.close()


def _is_trained(job: WorkerArgs, ranks: DistContext, observer: Reporter) -> bool:
    """Return whether an earlier attempt of this run finished the training."""
    with latest(job.checkpoints, ranks, observer.warn) as folder:
        if folder is None:
            return False
        return stored.read_progress(folder).is_over(job.spec.train, job.until)


def _tell_export(job: WorkerArgs, ranks: DistContext, observer: Reporter, name: str) -> None:
    """Tell the driver the stage of the export that begins now. Raises RunTaken, and Interrupted if
    any rank was asked to stop. Every rank must call this function."""
    observer.stage(name)
    if job.fence is not None and ranks.rank == 0:
        job.fence.check()
    if any(ranks.gather(observer.stopping())):
        fix = "the same command exports the trained model"
        raise Interrupted.of("run", job.spec.name, "interrupted before its model was written", fix)


def _train(job: WorkerArgs, ranks: DistContext, observer: Reporter, notices: Notices) -> None:
    """Set up and train. Every rank must call this function; a single rank may fail."""
    # Only rank 0 writes checkpoints, but every rank checks its access to the storage: after a
    # restart rank 0 may be on another node.
    Root(job.checkpoints).probe()
    observer.stage("loading the base model")
    base = load_base(job.spec, job.data.schema, shards_weights(job.spec.train, ranks.world))
    if base.note:
        observer.warn(base.note)
    _tell_baselines(job, base, ranks, observer)
    observer.stage("setting up the training")
    with latest(job.checkpoints, ranks, observer.warn) as folder:
        setup, progress = build(job.spec, job.data, base, ranks, folder, job.trunks)
    observer.setup = setup
    if job.baselines is not None and not setup.task.info.has_baselines and not progress.step:
        _tell_untrained(setup, observer)
    watchdog, train = observer.watchdog, job.spec.train
    # A run that shards its weights has no rank with memory for the whole state.
    parts = Parts.of(ranks) if shards_weights(train, ranks.world) else WHOLE
    writes = ranks.rank == 0 or parts.count > 1
    keeper = CheckpointManager(
        train.checkpoint,
        job.checkpoints,
        writes,
        watchdog.saving,
        job.fence,
        notices.due,
        parts,
        best_epochs=train.average or 1,
    )
    with watchdog, keeper.finishing():
        loop.run(setup, progress, keeper, observer, job.until)
    observer.setup = None  # the export loads the model again: free what the training took
    setup.phased.close()


def _tell_baselines(job: WorkerArgs, base: Base, ranks: DistContext, observer: Reporter) -> None:
    """Fit the baselines and report their metrics, unless an earlier attempt of this run already
    wrote them. Every rank must call this function."""
    file = job.baselines if job.spec.info.has_baselines else None
    if file is None or ranks.gather(ranks.rank == 0 and file.is_file())[0]:
        return
    observer.stage("baselines: what can be had without training")
    if job.spec.info.boosting:
        fitted = fit_boosting(job.data, job.spec.seed) if ranks.rank == 0 else None
    else:
        encoder = Encoder(base.model, get_task(job.spec.task), base.setup, ranks)
        with placed(base.model, ranks.device, torch.float32):
            fitted = fit_baselines(encoder, job.data, job.spec.seed)
    if fitted is not None:
        baselines, event = fitted
        baselines.write(file)
        observer.baseline(event)


def _tell_untrained(setup: TrainContext, observer: Reporter) -> None:
    """Evaluate the base model before the first step and report its metrics. Every rank must call
    this function."""
    observer.stage("evaluating the base model")
    started = time.perf_counter()
    metrics = loop.evaluate(setup, setup.validation, observer)
    seconds, rows = time.perf_counter() - started, len(setup.validation)
    observer.baseline({"kind": "baseline", "base": metrics, "rows": rows, "seconds": seconds})
