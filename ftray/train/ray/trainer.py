"""A group of Ray Train workers that trains one job, and the best checkpoint it leaves."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api.callback import RayTrainCallback

from ftray.cluster import capacity
from ftray.cluster import connection as cluster
from ftray.errors import FtrayError
from ftray.interrupt import softly
from ftray.spec.schema import Spec
from ftray.store.files.location import Location
from ftray.train import checkpoints
from ftray.train.distributed.preemption import GRACE_S
from ftray.train.orders import WorkerArgs
from ftray.train.ray.group_errors import EndsForGood, StartsAtMost, told
from ftray.train.ray.worker import train_worker
from ftray.train.resources import worker_resources

_LOOK_S, _SAY_S = 5.0, 60.0


def fit_workers(
    job: WorkerArgs,
    max_failures: int,
    check: Callable[[], None] = lambda: None,
) -> Location:
    """Train `job` at its spec's scale; returns the folder of the best checkpoint.

    Workers that die are started again, from the last checkpoint, up to `max_failures` times. What
    an earlier, killed call left under job.checkpoints is gone on with.

    `check` is called a few times a second; what it raises ends the run.

    Raises FtrayError; Interrupted after SIGINT or SIGTERM, when the workers have saved where they
    stand. A second signal does not wait for that. RunFailed names the ranks and nodes of workers
    that died or raised anything else as often as they may.
    """
    waits = _Waits(job)

    def watch() -> None:
        check()
        waits.look()

    # Ray Train looks whether it can write there. What is to be kept ftray writes itself, also where
    # a storage does not answer for a while.
    with tempfile.TemporaryDirectory(prefix="ftray-ray-train-") as scratch:
        trainer = _trainer(job, max_failures, scratch)
        with stopped_by_signals(job):
            try:
                result: Any = _in_a_thread(trainer.fit, watch)
            except TrainingFailedError as error:
                raise told(error) from error
    if isinstance(result.return_value, FtrayError):
        raise result.return_value
    return checkpoints.best(job.checkpoints)


class _Trainer(TorchTrainer):
    """Starts fewer processes than TorchTrainer. ftray gives it no Ray Data to hand out. On a Ray
    that ends with the driver no placement group outlives the driver, and the process that would
    remove it asks a dashboard that does not run: the run would wait 12 s for the answer."""

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        idle: tuple[type, ...] = (DatasetsCallback,)
        if cluster.is_own():
            idle += (PlacementGroupCleanerCallback,)
        return [c for c in super()._create_default_callbacks() if not isinstance(c, idle)]


def _trainer(job: WorkerArgs, max_failures: int, scratch: str) -> TorchTrainer:
    each = worker_resources(job.spec)
    return _Trainer(
        train_worker,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=_count(job.spec),
            use_gpu=each.gpus > 0,
            resources_per_worker=each.bundle(),
        ),
        run_config=RunConfig(
            name="run",
            storage_path=scratch,
            failure_config=FailureConfig(max_failures=max_failures, preemption_grace_s=GRACE_S),
            callbacks=[EndsForGood(), StartsAtMost(max_failures)],
        ),
    )


class _Waits:
    """Says now and then, while the live nodes do not hold the workers, what is waited for."""

    def __init__(self, job: WorkerArgs) -> None:
        self._sender, self._each = job.sender, worker_resources(job.spec)
        self._count = job.spec.scale.fewest_workers
        self._next = time.monotonic() + _LOOK_S

    def look(self) -> None:
        now = time.monotonic()
        if self._sender is None or now < self._next:
            return
        line = capacity.waiting(self._count, self._each)
        self._next = now + (_SAY_S if line else _LOOK_S)
        if line:
            self._sender.alarm(
                {"kind": "warning", "message": f"{line}. Ctrl-C twice ends the wait"}
            )


def _count(spec: Spec) -> Any:
    """As Ray Train takes it: a number, or a range of which it takes what there is room for."""
    fewest, most = spec.scale.fewest_workers, spec.scale.most_workers
    return fewest if fewest == most else (fewest, most)


def _in_a_thread(function: Callable[[], Any], check: Callable[[], None]) -> Any:
    """What `function` returns or raises. Ray Train answers to Ctrl-C by ending its workers where
    they stand, but only when it is called in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return function()
    results: list[Any] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            results.append(function())
        except BaseException as error:  # noqa: BLE001 - raised below, in the thread that waits
            errors.append(error)

    thread = threading.Thread(target=call, name="ftray-fit", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)  # signals are handled in between
        check()
    if errors:
        raise errors[0]
    return results[0]


def stopped_by_signals(job: WorkerArgs) -> AbstractContextManager[None]:
    """The first SIGINT or SIGTERM asks the workers to save and stop; the second one is Ctrl-C."""
    if job.sender is None:
        return nullcontext()
    return softly(job.sender.stop, "a checkpoint is saved after this step")
