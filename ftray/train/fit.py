"""A group of Ray Train workers that trains one job, and the best checkpoint it leaves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from ftray.errors import FtrayError
from ftray.store.location import Location
from ftray.train.progress import BEST_RANK
from ftray.train.scale import worker_resources
from ftray.train.worker import Job, train_worker


def fit_workers(
    job: Job, folder: Location, max_failures: int, callbacks: Sequence[Any] = ()
) -> Location:
    """Train `job` at its spec's scale; returns the folder of the best checkpoint.

    Workers that die are started again, from the last checkpoint, up to `max_failures` times.

    `folder` belongs to Ray Train: what an earlier, killed call left there is gone on with.
    Raises FtrayError.
    """
    each = worker_resources(job.spec)
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=job.spec.scale.workers,
            use_gpu=each.gpus > 0,
            resources_per_worker=each.bundle(),
        ),
        run_config=RunConfig(
            name=folder.name,
            storage_path=folder.parent.path,
            storage_filesystem=folder.fs,
            failure_config=FailureConfig(max_failures=max_failures),
            checkpoint_config=CheckpointConfig(
                num_to_keep=1, checkpoint_score_attribute=BEST_RANK, checkpoint_score_order="max"
            ),
            callbacks=list(callbacks),
        ),
    )
    result: Any = trainer.fit()
    if isinstance(result.return_value, FtrayError):
        raise result.return_value
    return best_checkpoint(result)


def best_checkpoint(result: Any) -> Location:
    """The folder of the best checkpoint among those that a Ray result lists."""
    kept = result.best_checkpoints or []
    assert kept, "a run that ended well has reported at least one checkpoint"
    best, _ = max(kept, key=lambda item: item[1][BEST_RANK])
    return Location(best.filesystem, best.path, best.path)
