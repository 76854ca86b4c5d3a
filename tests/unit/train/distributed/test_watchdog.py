"""A run that no longer moves is ended; one whose checkpoint takes long to be written is not."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from ftray.errors import RunFailed
from ftray.spec.sections.training import CheckpointSpec
from ftray.store.files.location import locate
from ftray.train.checkpoint.manager import CheckpointManager
from ftray.train.checkpoint.stored import latest
from ftray.train.distributed import watchdog
from ftray.train.distributed.watchdog import HANGS, MOVES, SAVES, Alarms, Watchdog
from ftray.train.engine.state import State
from ftray.train.progress import Progress

SECONDS = 0.2


class Told(list[str]):
    """The kinds of what a watchdog tells, in order and without repetition."""

    def __call__(self, kind: str, stack: str) -> None:
        if not self or self[-1] != kind:
            self.append(kind)

    def wait_for(self, kind: str) -> None:
        deadline = time.monotonic() + 60
        while kind not in self:
            assert time.monotonic() < deadline, f"no {kind} in {self}"
            time.sleep(0.01)


def test_a_thread_that_stands_still_is_told_once_and_then_that_it_moves() -> None:
    told = Told()
    with Watchdog(SECONDS, told) as dog:
        told.wait_for(HANGS)
        dog.alive()
        told.wait_for(MOVES)
    assert told[:2] == [HANGS, MOVES]


def test_a_slow_store_is_a_sign_of_life_while_the_run_waits_for_it(tmp_path: Path) -> None:
    asked, released, told = threading.Event(), threading.Event(), Told()
    whole = CheckpointSpec()
    with Watchdog(SECONDS, told) as dog:

        @contextmanager
        def slowly() -> Iterator[None]:
            with dog.saving():
                asked.set()
                released.wait()  # the store takes its time
                yield

        keeper = CheckpointManager(whole, locate(str(tmp_path)), writes=True, saving=slowly)
        keeper.save(State({"w": torch.ones(2)}, {}, {}), Progress(step=1), 0.0)
        asked.wait()
        threading.Timer(6 * SECONDS, released.set).start()
        keeper.wait()
    assert HANGS not in told
    assert SAVES in told
    assert latest(locate(str(tmp_path))) is not None


def test_a_checkpoint_that_is_never_written_is_told_after_its_own_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watchdog, "_SAVE_LIMIT", 2)
    told = Told()
    with Watchdog(SECONDS, told) as dog, dog.saving():
        told.wait_for(HANGS)
    assert told == [SAVES, HANGS]


def hang(rank: int) -> dict[str, Any]:
    return {"kind": HANGS, "rank": rank, "where": f"host {rank}", "stack": "  loop.py, line 1"}


def started(seconds: float = 60.0) -> Alarms:
    alarms = Alarms(seconds)
    alarms.listen({"kind": "start", "workers": 2})
    return alarms


def test_where_all_ranks_stand_still_the_run_ends() -> None:
    alarms = started()
    alarms.listen(hang(0))
    alarms.check()  # the other one may say so, too
    alarms.listen(hang(1))
    with pytest.raises(RunFailed, match="rank 0 .host 0.*\n.*\nrank 1 .host 1"):
        alarms.check()


def test_ranks_that_wait_for_the_one_that_saves_do_not_end_the_run() -> None:
    alarms, passed = started(), []
    listen = alarms.filter(passed.append)
    listen({"kind": SAVES, "rank": 0})
    listen(hang(0))
    listen(hang(1))
    alarms.check()
    listen({"kind": MOVES, "rank": 0})
    listen({"kind": MOVES, "rank": 1})
    assert [event["kind"] for event in passed] == [HANGS, HANGS], "signs of life are no news"


def test_after_a_save_a_hang_ends_the_run_as_before() -> None:
    alarms = started(seconds=0.05)
    alarms.listen({"kind": SAVES, "rank": 0})
    alarms.listen(hang(0))
    alarms.listen(hang(1))
    time.sleep(0.1)
    with pytest.raises(RunFailed, match=r"scale\.hang_minutes"):
        alarms.check()


def test_a_rank_that_moves_again_takes_its_alarm_back() -> None:
    alarms = started()
    alarms.listen(hang(0))
    alarms.listen(hang(1))
    for rank in (0, 1):
        alarms.listen({"kind": MOVES, "rank": rank})
    alarms.check()
