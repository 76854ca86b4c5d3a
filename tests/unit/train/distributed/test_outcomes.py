"""Ranks that fail learn of each other, and make one error that names them."""

from __future__ import annotations

import threading
import time

import pytest
import torch.distributed as dist

from ftray.errors import FtrayError, ModelError, RunFailed, StorageError
from ftray.train.distributed.faults import translated
from ftray.train.distributed.outcomes import Board, Failure, joint

WORLD = 3


def lacking(folder: str = "/base") -> ModelError:
    return ModelError.of("model.name_or_path", folder, "no such folder", "name another")


def boards(grace_s: float = 30.0) -> list[Board]:
    store = dist.HashStore()
    return [Board(store, rank, WORLD, grace_s) for rank in range(WORLD)]


def failures(*ranks: int, error: FtrayError | None = None) -> dict[int, Failure]:
    return {rank: Failure(f"rank {rank} (node {rank})", error or lacking()) for rank in ranks}


def places(found: dict[int, Failure]) -> list[str]:
    assert all(str(failure.error) == str(lacking()) for failure in found.values())
    return [failure.place for failure in found.values()]


def told(board: Board, rank: int, found: dict[int, dict[int, Failure]]) -> threading.Thread:
    def fail() -> None:
        found[rank] = board.fail(failures(rank)[rank])

    thread = threading.Thread(target=fail)
    thread.start()
    return thread


def test_ranks_that_fail_know_of_each_other_and_of_no_other_rank() -> None:
    three, found = boards(), {}
    threads = [told(three[rank], rank, found) for rank in (0, 2)]
    three[1].end()
    for thread in threads:
        thread.join()
    for rank in (0, 2):
        assert places(found[rank]) == ["rank 0 (node 0)", "rank 2 (node 2)"]


def test_a_rank_that_fails_does_not_wait_for_long_for_one_that_says_nothing() -> None:
    alone = boards(grace_s=0.2)[0]
    before = time.monotonic()
    assert places(alone.fail(failures(0)[0])) == ["rank 0 (node 0)"]
    assert time.monotonic() - before < 60


def test_without_the_rank_that_holds_the_store_the_own_failure_is_known() -> None:
    class Gone(dist.HashStore):
        def set(self, key: str, value: str) -> None:
            raise dist.DistNetworkError("connection reset by peer")

    found = Board(Gone(), 1, WORLD).fail(failures(1)[1])
    assert places(found) == ["rank 1 (node 1)"]


def test_a_problem_that_several_ranks_have_is_told_once_with_their_names() -> None:
    error = joint(failures(0, 2) | {1: Failure("rank 1 (node 1)", lacking("/other"))})
    assert type(error) is ModelError
    assert str(error).splitlines() == [
        "model.name_or_path = /base: on rank 0 (node 0), rank 2 (node 2): no such folder. "
        "Name another.",
        "model.name_or_path = /other: on rank 1 (node 1): no such folder. Name another.",
    ]


def test_of_many_ranks_a_few_are_named() -> None:
    error = joint(failures(*range(64)))
    assert len(error.problems) == 1
    assert "rank 3 (node 3) and 60 more ranks: no such folder" in str(error)


def test_what_no_user_can_mend_on_another_rank_does_not_hide_what_one_can() -> None:
    error = joint({0: Failure("rank 0", None), **failures(1)})
    assert str(error).startswith("model.name_or_path = /base: on rank 1")


def test_what_happened_everywhere_alike_needs_no_names() -> None:
    assert str(joint(failures(0, 1), named=False)) == str(lacking())


def test_the_kind_is_that_of_the_lowest_rank() -> None:
    full = StorageError.of("storage", "/root", "cannot be written", "free space")
    error = joint({1: Failure("rank 1", full), **failures(2)})
    assert type(error) is StorageError
    assert error.exit_code == full.exit_code


@pytest.mark.parametrize(
    ("error", "kind", "part"),
    [
        (ModuleNotFoundError("No module named 'peft'", name="peft"), "ClusterError", "peft"),
        (RuntimeError("DefaultCPUAllocator: not enough memory"), "RunFailed", "out of memory"),
        (MemoryError(), "RunFailed", "out of memory"),
        (lacking(), "ModelError", "no such folder"),
    ],
)
def test_what_third_parties_raise_says_what_would_do(
    error: Exception, kind: str, part: str
) -> None:
    found = translated(error)
    assert type(found).__name__ == kind
    assert part in str(found)


def test_a_mistake_of_the_program_is_no_error_of_the_user() -> None:
    assert translated(AssertionError("a rank without rows")) is None
    assert isinstance(translated(RunFailed(*lacking().problems)), RunFailed)
