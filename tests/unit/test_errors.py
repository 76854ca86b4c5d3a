"""What is wrong reaches the user whole: through pickling, through Ray's wrapping, as one line."""

from __future__ import annotations

import pickle

import pytest
from ray.exceptions import RayTaskError

from ftray import errors
from ftray.errors import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_WRONG_INPUT,
    DataError,
    FtrayError,
    Interrupted,
    NotTrainable,
    Problem,
    RolloutFailed,
    RunFailed,
    RunTaken,
    SpecError,
    StorageFault,
    find,
    shorten,
)

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, FtrayError)
]


def an_error() -> SpecError:
    return SpecError(
        Problem("train.epochs", "0", "should be above 0", "Say 1 or more."),
        Problem("name", "", "missing", "Add name."),
    )


class ControllerError(Exception):
    """As Ray Train's: what its callbacks raise."""

    def __init__(self, failure: Exception) -> None:
        super().__init__("the controller failed")
        self.controller_failure = failure


class WorkerGroupError(Exception):
    """As Ray Train's: one exception a rank, none of them a cause."""

    def __init__(self, failures: dict[int, Exception]) -> None:
        super().__init__("ranks failed")
        self.worker_failures = failures


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_survives_pickling(kind: type[FtrayError]) -> None:
    error = kind(*an_error().problems)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert copy.problems == error.problems
    assert str(copy) == str(error)
    assert copy.exit_code == kind.exit_code


@pytest.mark.parametrize("kind", KINDS)
def test_only_runs_that_fail_or_are_stopped_exit_otherwise(kind: type[FtrayError]) -> None:
    others = {
        RunFailed: EXIT_FAILED,
        NotTrainable: EXIT_FAILED,
        RunTaken: EXIT_FAILED,
        StorageFault: EXIT_FAILED,
        RolloutFailed: EXIT_FAILED,
        Interrupted: EXIT_INTERRUPTED,
    }
    assert kind.exit_code == others.get(kind, EXIT_WRONG_INPUT)


def test_a_problem_is_one_line_with_key_value_fault_and_fix() -> None:
    first, second = str(an_error()).splitlines()
    assert first == "train.epochs = 0: should be above 0. Say 1 or more."
    assert second == "name: missing. Add name."


@pytest.mark.parametrize(
    ("fix", "shown"),
    [
        ("lower it", "Lower it."),
        ("Lower it.", "Lower it."),
        ("did you mean x?", "Did you mean x?"),
        ("add a head (any)", "Add a head (any)"),
    ],
)
def test_a_fix_is_a_sentence(fix: str, shown: str) -> None:
    error = SpecError.of("key", 3, "is wrong.", fix)
    assert str(error) == f"key = 3: is wrong. {shown}"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, ""),
        ("plain", "plain"),
        ("two\n  lines", "two lines"),
        (2.5, "2.5"),
        ([1, 2], "[1, 2]"),
        ("", ""),
        (True, "true"),
        ("\x1b[2J\x00", "\\x1b[2J\\x00"),
        ("\ud800", "\\ud800"),
        ([10**5000], "a number of thousands of digits"),
    ],
)
def test_values_are_shown_as_written(value: object, shown: str) -> None:
    assert shorten(value) == shown


def test_an_error_is_one_line_of_bounded_length() -> None:
    error = SpecError.of("key", "x" * 9999, "said\non many lines " * 999, "do this " * 999)
    assert len(str(error).splitlines()) == 1
    assert len(str(error)) < 1500


def test_a_long_value_is_cut() -> None:
    assert shorten("x" * 121) == "x" * 119 + "…"
    assert shorten("x" * 120) == "x" * 120


def ray_task_error() -> RayTaskError:
    return RayTaskError("task", "Traceback (most recent call last): ...", an_error())


def raised_from() -> BaseException:
    try:
        raise ValueError("outer") from an_error()
    except ValueError as error:
        return error


def raised_while_handling() -> BaseException:
    try:
        try:
            raise an_error()
        except SpecError:
            raise KeyError("in the handler")  # noqa: B904 - the context is what is tested
    except KeyError as error:
        return error


def deep_inside() -> BaseException:
    failures = {0: ValueError("rank 0"), 1: ray_task_error().as_instanceof_cause()}
    outer = RuntimeError("the controller")
    outer.__cause__ = WorkerGroupError(failures)
    return outer


WRAPPINGS = {
    "itself": an_error,
    "a RayTaskError": ray_task_error,
    "what ray.get raises": lambda: ray_task_error().as_instanceof_cause(),
    "a cause": raised_from,
    "a context": raised_while_handling,
    "one rank of a worker group": deep_inside,
    "Ray Train's controller": lambda: ControllerError(an_error()),
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_the_error_is_found_and_reads_as_it_was_raised(wrapping: str) -> None:
    found = find(WRAPPINGS[wrapping]())
    assert found is not None
    assert found.problems == an_error().problems
    assert str(found) == str(an_error())
    assert found.exit_code == EXIT_WRONG_INPUT


def test_nothing_is_found_in_an_error_of_another_kind() -> None:
    error = ValueError("a bug")
    error.__cause__ = KeyError("x")
    assert find(error) is None


def test_a_circle_of_causes_ends_the_search() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert find(first) is None


def test_the_outermost_of_two_is_found() -> None:
    inner, outer = DataError.of("data", None, "inner", "fix"), an_error()
    outer.__cause__ = inner
    assert find(outer) is outer
