"""What the driver tells of a group of workers that Ray Train gave up."""

from __future__ import annotations

from typing import Any

import pytest
from ray.exceptions import RayTaskError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import (
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
)
from ray.train.v2._internal.execution.controller.state import ReschedulingState

from ftray.errors import EXIT_FAILED, EXIT_WRONG_INPUT, RunFailed, StorageError
from ftray.train.ray.group_errors import EndsForGood, StartsAtMost, told

FULL = StorageError.of("storage", "/root", "on rank 1: cannot be written", "free space")
CONTEXT: Any = None


def noted(error: Exception) -> Exception:
    error.add_note("raised on rank 1 (node 10.0.0.2, host b, id 1a2b)")
    return error


def died() -> Exception:
    info = "A worker health check failed.\nWorker info: ActorMetadata(node_ip='10.0.0.2', pid=7)"
    return WorkerHealthCheckFailedError(info, RuntimeError("The actor died\nclass_name: x"))


def test_an_error_of_the_user_ends_the_run_whatever_else_ended() -> None:
    with pytest.raises(StorageError) as caught:
        EndsForGood().after_exception(CONTEXT, {0: died(), 1: FULL})
    assert str(caught.value) == str(FULL)


def test_what_another_try_may_mend_is_left_to_ray() -> None:
    EndsForGood().after_exception(CONTEXT, {0: died(), 1: ValueError("odd")})


def test_workers_that_die_as_they_start_are_started_a_few_times() -> None:
    starts = StartsAtMost(2)
    failed = ReschedulingState(ControllerError(WorkerGroupStartupFailedError("x\nExit code 11")))
    waiting = ReschedulingState(ControllerError(WorkerGroupStartupTimeoutError(2)))
    for state in (failed, waiting, waiting, waiting, failed, waiting):
        starts.after_controller_state_update(None, state)
    with pytest.raises(RunFailed, match="Exit code 11"):
        starts.after_controller_state_update(None, failed)


def test_the_error_that_ended_the_run_is_told_as_it_was_raised() -> None:
    assert told(ControllerError(FULL)) is FULL


def test_other_errors_name_rank_and_node() -> None:
    error = told(WorkerGroupError("traceback", {0: died(), 1: noted(ValueError("odd"))}))
    assert error.exit_code == EXIT_FAILED
    first, second = str(error).splitlines()
    assert first.startswith("rank 0 (node 10.0.0.2): its process ended: The actor died.")
    assert second.startswith("rank 1 (node 10.0.0.2, host b, id 1a2b): ValueError: odd.")


def test_a_package_that_a_node_lacks_is_named_with_the_node() -> None:
    cause = ModuleNotFoundError("No module named 'deepspeed'", name="deepspeed")
    trace = "ray::RayTrainWorker.run_train_fn() (pid=1, ip=10.0.0.2, actor_id=3f)"
    task = RayTaskError("run_train_fn", trace, cause)
    error = told(ControllerError(task.as_instanceof_cause()))
    assert error.exit_code == EXIT_WRONG_INPUT
    assert "package = deepspeed: cannot be imported on node 10.0.0.2" in str(error)
