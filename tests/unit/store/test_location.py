"""Reads and writes of a storage: on a disk, on S3, and on S3 that fails for a while or for good."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftray.errors import StorageFault
from ftray.store.files import retry, transfer
from ftray.store.files.location import Location, locate
from ftray.store.files.url import extended, quoted, shortened
from tests.helpers.external.object_store import Fault, ObjectStore

ODD = "50% of 100%25 #1 é漢 [x] a+b&c=d;e"


@pytest.fixture(params=["disk", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """A folder that is not there yet."""
    if request.param == "disk":
        return locate(str(tmp_path / "new"))
    store: ObjectStore = request.getfixturevalue("object_store")
    return store.at("new")


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_BLOCK", 1_000_000)


def make_files(folder: Path) -> dict[str, bytes]:
    """Files of several sizes, one of them larger than what one request reads."""
    contents = {"a": b"x", "deep/er/b": os.urandom(2_500_000), "empty": b"", "last": b"{}"}
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return contents


def test_a_folder_goes_up_and_comes_back(folder: Location, tmp_path: Path) -> None:
    contents = make_files(tmp_path / "source")
    folder.upload(tmp_path / "source", last="last")
    assert folder.files() == sorted(contents)
    with folder.as_local() as local:
        assert {name: (local / name).read_bytes() for name in contents} == contents
    with (folder / "a").as_local() as local:
        assert local.read_bytes() == b"x"


def test_a_name_may_have_any_character(folder: Location) -> None:
    (folder / ODD / "file").write_bytes(b"content")
    (child,) = folder.children()
    assert child.name == ODD
    # Another process opens it by its URL.
    elsewhere = pickle.loads(pickle.dumps(child / "file"))
    assert elsewhere.read_bytes() == b"content"
    assert elsewhere.parent == child
    assert (elsewhere.parent.parent / ODD / "file").is_file()


def test_deleting_what_is_not_there_does_nothing(folder: Location) -> None:
    folder.delete()
    (folder / "deep" / "file").write_bytes(b"")
    folder.delete()
    assert not folder.exists()


def test_a_missing_file_is_not_found(folder: Location) -> None:
    with pytest.raises(FileNotFoundError):
        (folder / "none").read_bytes()


def test_a_full_disk_is_one_line_that_names_the_file() -> None:
    file = Location(locate("/").fs, "/dev/full", "/dev/full")
    with pytest.raises(StorageFault, match="/dev/full: No space left on device. Free space"):
        file._do(lambda: Path("/dev/full").write_bytes(b"x"))


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("s3://bucket/a b", "s3://bucket/a%20b"),
        ("s3://bucket/données?region=x", "s3://bucket/donn%C3%A9es?region=x"),
        ("s3://bucket/100%", "s3://bucket/100%25"),
        ("s3://bucket/is%20quoted", "s3://bucket/is%20quoted"),
        ("s3://user:pass@bucket/[1]", "s3://user:pass@bucket/%5B1%5D"),
    ],
)
def test_what_a_person_writes_becomes_a_url(written: str, url: str) -> None:
    assert quoted(written) == url
    assert shortened(extended(url, ODD)) == url


def test_a_password_is_not_shown(object_store: ObjectStore) -> None:
    location = object_store.at()
    assert "test:test@" in location.url
    assert "test" not in str(location)
    with object_store.failing(Fault.FORBIDDEN), pytest.raises(StorageFault) as caught:
        location.exists()
    assert "access denied" in str(caught.value)
    assert "test:test" not in str(caught.value)


FAULTS = [Fault.BUSY, Fault.CUT_UPLOADS, Fault.CUT_DOWNLOADS, Fault.LOSE_ANSWERS]
OPERATIONS: dict[str, Callable[[Location, Path], Any]] = {
    "write": lambda folder, source: (folder / "written").write_bytes(b"new"),
    "read": lambda folder, source: (folder / "there").read_bytes(),
    "list": lambda folder, source: folder.files(),
    "delete": lambda folder, source: (folder / "deep").delete(),
    "upload": lambda folder, source: (folder / "up").upload(source, last="last"),
    "download": lambda folder, source: (folder / "stays").download(source.parent / "down"),
}


def test_an_outage_is_bridged_by_every_operation(
    object_store: ObjectStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each begins while the store is stopped, and is done when it is there again, longer after than
    pyarrow tries by itself."""
    make_files(tmp_path / "source")
    folder = object_store.at("folder").patient()
    (folder / "there").write_bytes(b"content")
    (folder / "deep" / "file").write_bytes(b"content")
    (folder / "stays" / "file").write_bytes(b"content")
    failures = []

    def run(operation: Callable[[Location, Path], Any]) -> None:
        try:
            operation(folder, tmp_path / "source")
        except BaseException as error:  # noqa: BLE001 - seen by the test
            failures.append(error)

    with object_store.stopped(seconds=9):
        threads = [threading.Thread(target=run, args=(o,)) for o in OPERATIONS.values()]
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert object_store.keys("folder/up") == [
        f"folder/up/{name}" for name in ("a", "deep/er/b", "empty", "last")
    ]
    assert (folder / "written").read_bytes() == b"new"
    assert (tmp_path / "down" / "file").read_bytes() == b"content"
    assert not (folder / "deep").exists()
    lines = [record.getMessage() for record in caplog.records]
    assert any("Could not connect to server. It is tried again for up to 180 s" in x for x in lines)
    assert any("answers again" in line for line in lines)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_store_that_answers_badly_leaves_no_half_object(
    object_store: ObjectStore, tmp_path: Path, fault: Fault
) -> None:
    make_files(tmp_path / "source")
    folder = object_store.at("folder").patient()
    with object_store.failing(fault, seconds=3):
        (folder / "up").upload(tmp_path / "source", last="last")
    for key in object_store.keys("folder/up"):
        name = key.removeprefix("folder/up/")
        assert (folder / "up" / name).read_bytes() == (tmp_path / "source" / name).read_bytes()
    assert (folder / "up" / "last").is_file()


def test_what_is_final_is_not_tried_again(object_store: ObjectStore) -> None:
    location = object_store.at("file").patient()
    before = sum(object_store.requests.values())
    with object_store.failing(Fault.FORBIDDEN), pytest.raises(StorageFault, match="access denied"):
        location.write_bytes(b"x")
    elsewhere = locate(object_store.url("file").replace("@data/", "@nowhere/")).patient()
    with pytest.raises(StorageFault, match="bucket does not exist"):
        elsewhere.write_bytes(b"x")
    assert sum(object_store.requests.values()) - before < 5


def test_a_store_that_stays_away_ends_in_one_error(
    object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = object_store.at("file")
    with object_store.stopped(), pytest.raises(StorageFault, match="Could not connect") as caught:
        location.write_bytes(b"x")
    assert caught.value.transient
    assert retry.is_transient(pickle.loads(pickle.dumps(caught.value)))
