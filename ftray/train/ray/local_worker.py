"""A training worker on the driver's own machine, started before there is work for it.

Ray Train starts a controller and then its workers, one after the other, and each process imports
torch once it runs. Where a single worker without a GPU trains on a Ray that this process started
itself, ftray uses one process for everything that needs torch. This process imports torch while the
driver reads the data; then it encodes the rows, fills the trunk cache, trains, and exports the
trained model. The driver itself never imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import ray
from ray.exceptions import RayActorError, RayTaskError

from ftray.cluster import connection as cluster
from ftray.errors import FtrayError, RunFailed, find
from ftray.interrupt import softly
from ftray.spec.schema import Spec
from ftray.train.distributed.events import note
from ftray.train.orders import TrunkOrder, WorkerArgs
from ftray.train.resources import worker_resources

T = TypeVar("T")
R = TypeVar("R")

_LOOK_S = 0.2


@ray.remote(num_cpus=0)
class _Process:
    """The actor behind LocalWorker. It reserves no CPU from Ray, so that Ray tasks can use all of
    them meanwhile."""

    def import_ahead(self) -> None:
        from ftray.train.distributed.process import import_deepspeed

        import_deepspeed()
        import transformers.modeling_utils  # noqa: F401

        import ftray.train.ray.worker  # noqa: F401

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)


class LocalWorker:
    """The driver's handle on the worker process. If the process dies or a call fails, LocalWorker
    retries up to `max_failures` times, in a new process after a death."""

    def __init__(self, max_failures: int) -> None:
        self._left = max_failures
        self._start()

    @classmethod
    def of(cls, spec: Spec) -> LocalWorker | None:
        """Start a worker for runs of `spec`; None where Ray Train is to start the workers."""
        alone = spec.scale.fewest_workers == spec.scale.most_workers == 1
        if alone and cluster.is_own() and not worker_resources(spec).gpus:
            return cls(spec.scale.max_failures)
        return None

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield what `function` returns for each item, in order."""
        for item in items:
            yield self._call(function, item)

    def train(
        self, job: WorkerArgs, order: TrunkOrder | None, check: Callable[[], None] = lambda: None
    ) -> float:
        """Fill the trunk cache of `order`, then train and export `job`. Returns and handles checks,
        signals and errors as `fit_workers` does."""
        assert job.sender is not None
        with softly(job.sender.stop, "what is done so far is saved after this step"):
            found = self._call(_trained, job, order, check=check)
        if isinstance(found, FtrayError):
            raise found
        return found

    def close(self) -> None:
        ray.kill(self._process)

    def _start(self) -> None:
        self._process = _Process.remote()  # type: ignore[attr-defined]
        self._process.import_ahead.remote()

    def _call(
        self, function: Callable[..., Any], *args: Any, check: Callable[[], None] = lambda: None
    ) -> Any:
        """Call `function` in the worker process and return its result. An FtrayError of the
        function is raised here; other failures are retried up to `max_failures` times."""
        while True:
            answer = self._process.call.remote(function, *args)
            try:
                while not ray.wait([answer], timeout=_LOOK_S)[0]:
                    check()  # Python handles signals between two waits
                return ray.get(answer)
            except RayActorError as error:
                self._failed(f"its process ended: {str(error).strip().splitlines()[0]}", error)
                self._start()
            except RayTaskError as error:
                if known := find(error):
                    raise known from None
                self._failed(str(error.cause), error)

    def _failed(self, how: str, error: Exception) -> None:
        if self._left <= 0:
            fix = "the same command goes on from the last checkpoint"
            raise RunFailed.of("worker", None, how, fix) from error
        self._left -= 1


@contextmanager
def local_worker(spec: Spec, started: LocalWorker | None = None) -> Iterator[LocalWorker | None]:
    """Yield the worker `started` if given, else a new one that is closed at the end of the block;
    None where Ray Train is to start the workers."""
    if started is not None:
        yield started
        return
    worker = LocalWorker.of(spec)
    try:
        yield worker
    finally:
        if worker is not None:
            worker.close()


# Functions that the worker process calls. They import torch code lazily, as the driver imports this
# module too.


def _trained(job: WorkerArgs, order: TrunkOrder | None) -> float | FtrayError:
    from ftray.train.ray.worker import train_alone
    from ftray.train.trunk_cache.build import prepare_trunk

    if order is not None:
        assert job.sender is not None
        send = partial(job.sender.send, now=True)
        job = replace(job, trunks=prepare_trunk(order, lambda line: send(note(line)), send))
    return train_alone(job)
