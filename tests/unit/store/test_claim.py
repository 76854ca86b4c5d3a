"""Who drives a run: one process each time, on a disk and in an object store."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ftray.errors import RunTaken
from ftray.spec.load import dump, override, parse
from ftray.store.files.location import locate
from ftray.store.root import Root
from ftray.store.runs import folder as runs
from ftray.store.runs import owner, status
from ftray.store.runs.claim import CURRENT, claim_run, unfinished
from ftray.store.runs.folder import RunFolder, list_runs
from ftray.store.runs.inputs import Inputs
from tests.helpers.external.object_store import ObjectStore

SPEC = parse({"name": "reviews", "model": {"name_or_path": "m"}, "data": {"train": "a.csv"}})
INPUTS = Inputs("d1", {"train": 10}, base_digest="b1", deepspeed={"zero": {"stage": 2}})
ELSEWHERE = "other-boot/pid:[1]/77"

# A driver in another process: says what it claimed, and waits to be killed.
_DRIVER = """
import sys, time
from ftray.errors import FtrayError
from ftray.spec.load import load
from ftray.store.runs.claim import claim_run
from ftray.store.runs.inputs import Inputs
from ftray.store.files.location import locate
from ftray.store.root import Root
spec = load(sys.argv[2])
sys.stdin.readline()
try:
    run = claim_run(Root(locate(sys.argv[1])), spec, "train", spec, Inputs("d1"), print)
except FtrayError as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
print("owns", run.run_id, flush=True)
with run.beating():
    time.sleep(600)
"""


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Root:
    if request.param == "local":
        return Root(locate(str(tmp_path / "data")))
    store: ObjectStore = request.getfixturevalue("object_store")
    return Root(store.at("root"))


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "LEASE_S", 1.0)
    monkeypatch.setattr(runs, "BEAT_S", 0.2)


def claim(root: Root, inputs: Inputs = INPUTS, said: list[str] | None = None) -> RunFolder:
    say = (lambda line: None) if said is None else said.append
    return claim_run(root, SPEC, "train", SPEC, inputs, say)


def rewrite(run: RunFolder, **fields: Any) -> None:
    """Change status.json as the process of another machine would."""
    file = run.location / "status.json"
    file.write_json({**file.read_json(), **fields})


def moved(root: Root, **fields: Any) -> RunFolder:
    """A run whose owner runs on another machine."""
    run = claim(root)
    rewrite(run, host="far", pid=7, process=ELSEWHERE, **fields)
    return run


@contextmanager
def drivers(root: Root, folder: Path, count: int) -> Iterator[list[subprocess.Popen[str]]]:
    (folder / "spec.yaml").write_text(dump(SPEC))
    command = [sys.executable, "-c", _DRIVER, root.location.url, str(folder / "spec.yaml")]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    children = [subprocess.Popen(command, **pipes) for _ in range(count)]
    try:
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        yield children
    finally:
        for child in children:
            child.kill()
            child.wait()


def said_by(child: subprocess.Popen[str], word: str) -> str:
    assert child.stdout is not None
    for line in child.stdout:
        if word in line:
            return line
    raise AssertionError(f"{word} was not said")


def test_of_two_drivers_at_once_one_begins_and_one_is_told(root: Root, tmp_path: Path) -> None:
    with drivers(root, tmp_path, 2) as children:
        codes: list[int | None] = [None, None]
        while not any(code is not None for code in codes):
            codes = [child.poll() for child in children]
        (loser,) = [child for child in children if child.poll() is not None]
        (winner,) = [child for child in children if child.poll() is None]
        assert loser.returncode == 1
        run_id = said_by(winner, "owns").split()[1]
        assert f"run = {run_id}: is being driven by" in said_by(loser, "is being driven")
        assert [run.run_id for run in list_runs(root)] == [run_id]

        # Both find it when it has been killed: again one goes on, and no other run begins.
        os.kill(winner.pid, signal.SIGKILL)
        winner.wait()
        with drivers(root, tmp_path, 2) as children:
            codes = [None, None]
            while not any(code is not None for code in codes):
                codes = [child.poll() for child in children]
            (winner,) = [child for child in children if child.poll() is None]
            assert said_by(winner, "owns").split()[1] == run_id
        (run,) = list_runs(root)
        assert run.status.generation == 2


def test_a_run_goes_on_as_often_as_it_is_cut_off(root: Root) -> None:
    said: list[str] = []
    run = claim(root, said=said)
    with pytest.raises(RunTaken, match="is being driven by"):
        claim(root)
    run.set_status(state="interrupted")
    again = claim(root, said=said)
    assert again.run_id == run.run_id
    assert "which was cut off" in said[-1]
    again.set_status(state="failed", resumable=True, message="no space left on device")
    again = claim(root, said=said)
    assert again.run_id == run.run_id
    assert "which failed: no space left on device" in said[-1]
    assert again.status.generation == 3
    assert unfinished(root, override(SPEC, {"train.epochs": 9})) is None
    assert unfinished(root, SPEC, "tune") is None


@pytest.mark.parametrize("end", [{"state": "failed"}, {"state": "done"}])
def test_what_ended_is_not_gone_on_with(root: Root, end: dict[str, Any]) -> None:
    run = claim(root)
    run.set_status(**end)
    assert unfinished(root, SPEC) is None
    assert claim(root).run_id != run.run_id


@pytest.mark.parametrize(
    ("now", "named"),
    [
        (Inputs("d2", {"train": 11}, "", "b1", INPUTS.deepspeed), "10 rows then, 11 rows now"),
        (Inputs("d1", {"train": 10}, "", "b2", INPUTS.deepspeed), "base model's files"),
        (Inputs("d1", {"train": 10}, "c1", "", INPUTS.deepspeed), "commit none, now c1"),
        (Inputs("d1", {"train": 10}, "", "b1", {"zero": {"stage": 3}}), "zero.stage: 2, now 3"),
        (Inputs("d1", {"train": 10}, "", "b1", None), r"zero: {'stage': 2}, now absent"),
    ],
)
def test_other_inputs_begin_a_new_run_and_are_named(
    tmp_path: Path, now: Inputs, named: str
) -> None:
    root = Root(locate(str(tmp_path / "data")))
    run, said = claim(root), []
    run.set_status(state="interrupted")
    new = claim(root, now, said)
    assert new.run_id != run.run_id
    assert named in said[0] and f"run {run.run_id} began with other inputs" in said[0]
    new.set_status(state="interrupted")
    assert claim(root, now).run_id == new.run_id
    assert new.inputs == now


def test_a_silent_owner_elsewhere_is_waited_for_and_then_replaced(
    root: Root, short_lease: None
) -> None:
    # Its clock is years ahead of this one's: it must not matter.
    old = moved(root, lease=1.0, updated="2099-01-01T00:00:00+00:00")
    said: list[str] = []
    new = claim(root, said=said)
    assert new.run_id == old.run_id
    assert "was driven by far, pid 7: waiting up to 1 s" in said[0]
    assert (new.status.generation, new.status.pid) == (2, os.getpid())


def test_an_owner_elsewhere_that_gives_a_sign_of_life_keeps_its_run(
    root: Root, short_lease: None
) -> None:
    run = moved(root, lease=20.0, updated="2020-01-01T00:00:00+00:00")  # years behind
    beat = threading.Timer(0.3, lambda: rewrite(run, beat=5))
    beat.start()
    with pytest.raises(RunTaken, match="is being driven by far, pid 7"):
        claim(root)
    beat.join()


def test_who_lost_a_run_writes_nothing_more(
    root: Root, short_lease: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    loser = moved(root, lease=0.5)
    held = loser.look()
    monkeypatch.setattr(loser, "_held", held)  # the other machine's process
    loser.append_metrics({"step": 1})
    fence = loser.fence
    fence.check()
    winner = claim(root)
    winner.append_metrics({"step": 2})
    winner.close()
    monkeypatch.setattr(loser, "_heard", loser._heard - 120)  # noqa: SLF001 - it was stopped so long
    before = winner.status
    for write in (
        lambda: loser.append_metrics({"step": 3}),
        lambda: loser.set_status(state="done"),
        loser.check_owned,
        fence.check,
    ):
        with pytest.raises(RunTaken, match="is now driven by"):
            write()
    assert winner.status == before
    assert [r["step"] for r in winner.metrics() if r["step"] > 1] == [2]


def test_a_stopped_driver_finds_out_when_it_continues(root: Root, short_lease: None) -> None:
    loser = moved(root, lease=0.5)
    loser._held = loser.look()  # noqa: SLF001 - the other machine's process
    winner = claim(root)
    with loser.beating(every=0.05):
        while True:
            try:
                loser.check_owned()
            except RunTaken as error:
                assert f"pid {os.getpid()}" in str(error)
                break
    assert winner.status.generation == 2


def test_a_pointer_to_a_deleted_run_begins_anew(tmp_path: Path) -> None:
    root = Root(locate(str(tmp_path / "data")))
    run = claim(root)
    run.location.delete()
    new = claim(root)
    assert new.run_id != run.run_id
    (pointer,) = [
        file for file in (root.runs("reviews") / CURRENT).children() if file.name.endswith(".json")
    ]
    assert json.loads(pointer.read_bytes()) == {"run": new.run_id}
    pointer.write_text("torn")
    new.set_status(state="done")
    assert claim(root).run_id not in (run.run_id, new.run_id)


def test_the_lease_outlasts_several_signs_of_life() -> None:
    assert owner.LEASE_S > 5 * owner.BEAT_S
