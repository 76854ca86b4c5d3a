"""Trains one job with a group of Ray Train workers, and returns its best checkpoint."""

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
) -> float:
    """Train `job` at its spec's scale, and export where it asks for that; returns the seconds that
    the export took.

    When workers die, Ray Train restarts the group from the last checkpoint, up to `max_failures`
    times. Training also resumes from checkpoints that an earlier, killed call left under
    job.checkpoints.

    This function calls `check` a few times a second; an exception of `check` ends the run.

    Raises FtrayError. After SIGINT or SIGTERM the workers save a checkpoint, then Interrupted is
    raised; a second signal does not wait for the checkpoint. When the workers died, or raised
    other exceptions, more than `max_failures` times, RunFailed names their ranks and nodes.
    """
    waits = _Waits(job)

    def watch() -> None:
        check()
        waits.look()

    # Ray Train requires a writable storage path and checks it, so it gets a scratch folder. ftray
    # writes checkpoints itself, with retries while a storage does not answer.
    with tempfile.TemporaryDirectory(prefix="ftray-ray-train-") as scratch:
        trainer = _trainer(job, max_failures, scratch)
        with stopped_by_signals(job):
            try:
                result: Any = _in_a_thread(trainer.fit, watch)
            except TrainingFailedError as error:
                raise told(error) from error
    if isinstance(result.return_value, FtrayError):
        raise result.return_value
    return result.return_value


class _Trainer(TorchTrainer):
    """A TorchTrainer without two of Ray Train's default callbacks.

    DatasetsCallback hands out Ray Data, which ftray does not use here.
    PlacementGroupCleanerCallback starts a process that removes the placement group after the
    driver's death. On a Ray that ends with the driver no placement group outlives the driver, and
    this process would query a dashboard that does not run: the run would wait 12 s for the answer.
    """

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
    """Tells the user, every minute while the live nodes have no room for the workers, what the run
    waits for."""

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
    """Return the number of workers for Ray Train: a number, or a (fewest, most) range within which
    Ray Train starts as many workers as there is room for."""
    fewest, most = spec.scale.fewest_workers, spec.scale.most_workers
    return fewest if fewest == most else (fewest, most)


def _in_a_thread(function: Callable[[], Any], check: Callable[[], None]) -> Any:
    """Run `function` in a second thread, and return or raise its outcome; call `check` meanwhile.

    In the main thread Ray Train would handle Ctrl-C itself and kill its workers without a
    checkpoint. A caller that is not the main thread runs `function` directly, without `check`.
    """
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
        thread.join(0.2)  # Python handles signals between two waits
        check()
    if errors:
        raise errors[0]
    return results[0]


def stopped_by_signals(job: WorkerArgs) -> AbstractContextManager[None]:
    """Inside the block the first SIGINT or SIGTERM asks the workers to save a checkpoint and stop;
    the second one raises KeyboardInterrupt."""
    if job.sender is None:
        return nullcontext()
    return softly(job.sender.stop, "what is done so far is saved after this step")
