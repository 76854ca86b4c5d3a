"""The run folder: status, metrics, who owns it, which run is to be continued, what is pruned."""

from __future__ import annotations

import json
import os
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from ftray.errors import RegistryError, StorageError
from ftray.spec.load import override, parse
from ftray.store.files.location import Location, locate
from ftray.store.removal import clear
from ftray.store.root import Root
from ftray.store.runs import metrics
from ftray.store.runs.folder import RUN_ID, RunFolder, find_run, list_runs, new_run_id
from ftray.store.runs.prune import prune
from tests.helpers.external.object_store import ObjectStore

SPEC = parse({"name": "reviews", "model": {"name_or_path": "m"}, "data": {"train": "a.csv"}})
FIRST, SECOND = "20260101-000000-aaaaaa", "20260102-000000-bbbbbb"


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(locate(str(tmp_path / "data")))


def test_a_run_from_start_to_end(root: Root) -> None:
    run = RunFolder.create(root, SPEC, FIRST)
    assert (run.name, run.run_id, run.state) == ("reviews", FIRST, "running")
    assert run.spec_tree() == SPEC.model_dump(mode="json")
    status = run.set_status(state="done", message="good", model="reviews", version=3)
    again = RunFolder(root.runs("reviews") / FIRST)
    assert again.status == status
    assert (again.status.version, again.status.pid) == (3, os.getpid())
    (run.location / "status.json").write_text('{"state": "done"}')
    with pytest.raises(StorageError, match=r"status.json: cannot be read"):
        _ = run.status


def test_run_ids_sort_by_time() -> None:
    ids = [new_run_id(SPEC) for _ in range(50)]
    assert len(set(ids)) == 50
    assert all(RUN_ID.fullmatch(run_id) for run_id in ids)
    assert abs(datetime.strptime(ids[0][:15], "%Y%m%d-%H%M%S") - _utc()) < timedelta(seconds=5)


def _utc() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def test_readers_never_see_half_a_status_while_the_run_beats(root: Root) -> None:
    run = RunFolder.create(root, SPEC, FIRST)
    first = run.status.updated
    file = Path(run.location.path) / "status.json"
    with run.beating(every=0.001):
        for number in range(100):
            run.set_status(message=str(number))
            assert json.loads(file.read_text())["message"] == str(number)
        time.sleep(0.01)
    assert run.status.updated > first
    assert run.status.message == "99"
    assert sorted(path.name for path in file.parent.iterdir()) == [
        ".status.json.lock",
        "spec.yaml",
        "status.json",
    ]


def test_metrics_survive_a_torn_line(root: Root) -> None:
    run = RunFolder.create(root, SPEC, FIRST)
    run.append_metrics({"step": 1, "loss": float("nan"), "deep": [{"x": float("inf")}], "ä": "ö\n"})
    file = Path(run.location.path) / "metrics.jsonl"
    with file.open("ab") as stream:
        stream.write('{"step": 2, "text": "fünf'.encode()[:-3])  # killed in the middle of a letter
    first = {"step": 1, "loss": None, "deep": [{"x": None}], "ä": "ö\n"}
    assert run.metrics() == [first]
    again = RunFolder(root.runs("reviews") / FIRST)
    again.append_metrics({"step": 2})
    assert again.metrics() == [first, {"step": 2}]


def test_metrics_of_threads_do_not_mix(root: Root) -> None:
    run = RunFolder.create(root, SPEC, FIRST)

    def write(thread: int) -> None:
        for step in range(50):
            run.append_metrics({"thread": thread, "step": step, "padding": "x" * 500})

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(run.metrics()) == 200


def test_remote_metrics_are_written_now_and_then_and_at_the_end(tmp_path: Path) -> None:
    fs = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    root = Root(Location(fs, "root", "sub://root"))
    run = RunFolder.create(root, SPEC, FIRST)
    reader = RunFolder(root.runs("reviews") / FIRST)
    for step in range(1000):
        run.append_metrics({"step": step})
    assert len(reader.metrics()) < 1000  # else each line would be a whole upload
    assert len(run.metrics()) == 1000, "the writer knows what it holds back"
    run.close()
    assert [record["step"] for record in reader.metrics()] == list(range(1000))
    # The driver that continues the run keeps what is there.
    reader.append_metrics({"step": 1000})
    reader.close()
    assert len(run.metrics()) == 1001
    assert [found.run_id for found in list_runs(root)] == [FIRST]


def test_a_long_remote_run_is_written_in_segments_each_about_once(
    object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run of days, each line must not upload all lines before it again."""
    monkeypatch.setattr(metrics, "_REWRITE_EVERY", 0.0)
    monkeypatch.setattr(metrics, "_SEGMENT", 500)
    root = Root(object_store.at("root"))
    run = RunFolder.create(root, SPEC, FIRST)
    reader, seen = RunFolder(root.runs("reviews") / FIRST), []
    for step in range(60):
        run.append_metrics({"step": step, "padding": "x" * 20})
        if step % 7 == 0:
            seen.append(len(reader.metrics()))
    assert seen == [step + 1 for step in range(0, 60, 7)], "a reader follows over all segments"
    files = {f.base_name: f.size for f in run.location.everything(deep=False)}
    segments = {name: size for name, size in files.items() if name.startswith("metrics")}
    assert len(segments) > 3
    assert max(segments.values()) < 600
    again = RunFolder(root.runs("reviews") / FIRST)  # a driver that continues the run
    again.append_metrics({"step": 60})
    again.close()
    for one in (reader, again, RunFolder(root.runs("reviews") / FIRST)):
        assert [record["step"] for record in one.metrics()] == list(range(61))


def test_an_owner_that_is_dead_or_silent_has_been_interrupted(root: Root) -> None:
    run = RunFolder.create(root, SPEC, FIRST)
    machine = run.status.process.rpartition("/")[0]
    run.set_status(process=f"{machine}/1")  # this process's number, begun at another time
    assert (run.state, run.status.may_live) == ("interrupted", False)
    for silent, state, may_live in (
        (5, "running", True),
        (65, "interrupted", True),  # a clock may be wrong by a minute
        (7200, "interrupted", False),
    ):
        heard = (datetime.now(UTC) - timedelta(seconds=silent)).isoformat()
        # The same host name is not the same machine: containers share names, not pid namespaces.
        run.set_status(process="other-boot/pid:[1]/77", updated=heard)
        assert (run.state, run.status.may_live) == (state, may_live)


def test_runs_are_found_by_what_a_person_would_type(root: Root) -> None:
    RunFolder.create(root, SPEC, SECOND)
    RunFolder.create(root, SPEC, FIRST)
    RunFolder.create(root, override(SPEC, {"name": "other"}), "20251231-000000-cccccc")
    (root.runs("reviews") / "20260103-000000-dddddd" / "spec.yaml").write_text("no status yet")
    (root.runs() / "notes.txt").write_text("a user's own")
    assert [run.run_id[-1] for run in list_runs(root)] == ["c", "a", "b"]
    assert [run.run_id for run in list_runs(root, "reviews")] == [FIRST, SECOND]
    for reference in (SECOND, f"reviews/{SECOND}", "20260102", "reviews"):
        assert find_run(root, reference).run_id == SECOND
    for reference, message in (("2026", "several"), ("2027", "no such run"), ("", "no such run")):
        with pytest.raises(RegistryError, match=message):
            find_run(root, reference)


def test_prune_removes_old_folders_without_manifest_and_nothing_else(root: Root) -> None:
    digest = "0123456789abcdef"
    gone = [
        root.runs("reviews") / FIRST,
        root.models("reviews") / FIRST,
        root.data_cache(digest),
        root.data_cache(f".{digest}.0a1b2c3d.part"),
        root.location / "cache" / "trunk" / digest,
    ]
    kept = [
        root.runs("reviews") / "my notes",
        root.models("reviews") / "downloads",
        root.location / "cache" / "data" / "README.md",
    ]
    for folder in (*gone, *kept):
        (folder / "deep" / "file").write_text("12345")
    for folder, manifest in (
        (root.models("reviews") / SECOND, "ftray.json"),
        (root.data_cache("f" * 16), "manifest.json"),
    ):
        (folder / manifest).write_text("{}")
        kept.append(folder)
    done = RunFolder.create(root, SPEC, SECOND)
    done.set_status(state="done")
    kept.append(done.location)
    assert prune(root) == []  # all of it is younger than an hour
    _age(root)
    assert {item.folder.path for item in prune(root, dry_run=True)} == {f.path for f in gone}
    assert all(folder.exists() for folder in gone)
    assert sum(item.size for item in prune(root)) == 5 * len(gone)
    assert not any(folder.exists() for folder in gone)
    assert all(folder.exists() for folder in kept)
    assert prune(root) == []


def test_prune_leaves_what_a_living_run_may_be_writing(root: Root) -> None:
    run = RunFolder.create(root, SPEC, FIRST)
    writing = [root.models("reviews") / FIRST, root.data_cache("0" * 16)]
    for folder in writing:
        (folder / "part").write_text("")
    fresh = root.runs("reviews") / SECOND  # a file in it was just written
    (fresh / "deep" / "old").write_text("")
    _age(root)
    (fresh / "deep" / "new").write_text("")
    assert prune(root) == []
    run.set_status(state="failed")
    assert {item.folder.path for item in prune(root)} == {folder.path for folder in writing}


def _age(root: Root) -> None:
    """Make everything under the root look two hours old."""
    then = time.time() - 7200
    for path in Path(root.location.path).rglob("*"):
        os.utime(path, (then, then))


def test_what_served_a_run_goes_when_it_is_done_and_its_checkpoints_unless_kept(root: Root) -> None:
    kept = override(SPEC, {"train.checkpoint.keep_after": True})
    runs = {}
    for number, (state, spec) in enumerate(
        [("done", SPEC), ("done", kept), ("failed", SPEC), ("interrupted", SPEC)]
    ):
        run = RunFolder.create(root, spec, f"2026010{number}-000000-aaaaaa")
        for name in ("checkpoints", "kept", "trials"):
            (run.location / name / "deep" / "file").write_text("12345")
        (Path(run.location.path) / "ray-train" / "empty").mkdir(parents=True)
        run.set_status(state=state)
        runs[number] = run
    _age(root)
    prune(root)
    left = {
        number: {c.name for c in run.location.children() if c.is_dir()}
        for number, run in runs.items()
    }
    assert left == {
        0: set(),
        1: {"checkpoints"},
        2: {"checkpoints", "kept", "trials"},
        3: {"checkpoints", "kept", "trials"},
    }
    clear(runs[3], keep_checkpoints=True)
    assert not (runs[3].location / "kept").exists()
    assert (runs[3].location / "checkpoints").exists()
