"""Callbacks that stop Ray Train from restarting workers, and the user's errors for failed workers.

Ray Train runs the callbacks in its controller, so this module imports nothing heavy.
"""

from __future__ import annotations

import re
from typing import Any

from ray.exceptions import RayTaskError
from ray.train import TrainingFailedError, UserCallback
from ray.train.v2._internal.exceptions import (
    WorkerGroupStartupFailedError,
    WorkerHealthCheckFailedError,
)
from ray.train.v2._internal.execution.callback import ControllerCallback

from ftray.errors import ClusterError, FtrayError, Problem, RunFailed, find

_GOES_ON = "The same command goes on from the last checkpoint"
# The node's IP address in Ray's message about a worker, and in that about a task that raised.
_ADDRESS = re.compile(r"node_ip='([^']+)'")
_TASK_ADDRESS = re.compile(r"\bip=([^,)]+)")


class EndsForGood(UserCallback):
    """Ends the run when a worker raised an FtrayError, as restarted workers would raise the same
    error again."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise the FtrayError of the lowest rank. Ray Train ends the run when a callback
        raises."""
        for _, error in sorted(worker_exceptions.items()):
            known = find(error)
            if known is not None:
                raise known


class StartsAtMost(ControllerCallback):
    """Ends the run when worker processes died more than `limit` times during startup.

    Ray Train itself would restart the workers for ever: ftray leaves Ray Train's own limit unset,
    as this limit also counts each minute in which the cluster has no room for the workers yet,
    which is no failure.
    """

    def __init__(self, limit: int) -> None:
        self._left = limit

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        failed = getattr(current_state, "training_failed_error", None)
        failure = getattr(failed, "controller_failure", None)
        if isinstance(failure, WorkerGroupStartupFailedError):
            self._left -= 1
            if self._left < 0:
                raise RunFailed.of(
                    "workers",
                    None,
                    f"a worker's process ended while it started: {_last_line(failure)}",
                    "see Ray's logs of that node; a package or library that it lacks ends a "
                    "process so",
                )


def told(error: TrainingFailedError) -> FtrayError:
    """Return the FtrayError that the driver raises for an error of Ray Train."""
    known = find(error)
    if known is not None:
        return known
    failures = getattr(error, "worker_failures", {})
    if failures:
        return RunFailed(*(_of_rank(rank, failure) for rank, failure in sorted(failures.items())))
    failure = getattr(error, "controller_failure", error)
    if isinstance(failure, RayTaskError):
        return _of_task(failure)
    return RunFailed.of("Ray Train", None, _last_line(failure), _GOES_ON)


def _of_rank(rank: int, failure: Exception) -> Problem:
    """Describe a worker's exception, whose text includes the traceback, as a Problem that names the
    worker's rank or node. The user made no mistake, so developers need the traceback."""
    if isinstance(failure, WorkerHealthCheckFailedError):
        address = _ADDRESS.search(str(failure))
        where = f" (node {address[1]})" if address else ""
        problem = f"its process ended: {_first_line(failure.health_check_failure)}"
        return Problem(f"rank {rank}{where}", "", problem, f"{_GOES_ON}.")
    where = next((note.removeprefix("raised on ") for note in _notes(failure)), f"rank {rank}")
    return Problem(where, "", f"{type(failure).__name__}: {failure}", f"{_GOES_ON}.")


def _of_task(failure: RayTaskError) -> FtrayError:
    """Return the error for an exception that a worker raised during startup, before training."""
    cause, address = failure.cause, _TASK_ADDRESS.search(str(failure))
    where = f"on node {address[1]}" if address else "on a node"
    if isinstance(cause, ImportError):
        fix = "install the same packages on every node"
        return ClusterError.of("package", cause.name, f"cannot be imported {where}: {cause}", fix)
    problem = f"{type(cause).__name__} {where} while it started: {cause}"
    return RunFailed.of("workers", None, problem, _GOES_ON)


def _notes(error: BaseException) -> list[str]:
    return getattr(error, "__notes__", [])


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def _last_line(error: BaseException) -> str:
    return str(error).strip().rpartition("\n")[2]
