"""Conditional writes: the same promises on a disk, in an object store, and by several processes."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from ftray.errors import StorageError
from ftray.store.files.document import Document, change, open_document
from ftray.store.files.location import Location, locate
from tests.helpers.external.object_store import Fault, ObjectStore

Place = Callable[[str], Location]


@pytest.fixture(params=["local", "s3", "other"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "s3":
        store: ObjectStore = request.getfixturevalue("object_store")
        return lambda name: store.at("root") / name
    if request.param == "local":
        return lambda name: locate(str(tmp_path / "root" / name))
    fs = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    return lambda name: Location(fs, name, f"hdfs://host/{name}")


def test_only_what_follows_the_version_that_was_read_is_written(place: Place) -> None:
    document, other = open_document(place("a.json")), open_document(place("a.json"))
    nothing = document.read()
    assert nothing.content is None
    first = document.write(b"1", nothing)
    assert first is not None
    assert other.write(b"x", nothing) is None
    assert other.read() == first
    second = other.write(b"2", first)
    assert second is not None
    assert document.write(b"y", first) is None
    third = other.write(b"3", second)
    assert third is not None and document.read() == third
    assert place("a.json").read_bytes() == b"3"


def test_a_deleted_file_does_not_come_back(place: Place) -> None:
    document = open_document(place("a.json"))
    written = document.write(b"1", document.read())
    assert written is not None
    place("a.json").delete()
    assert document.write(b"2", written) is None
    assert not place("a.json").exists()


def counted(document: Document, times: int) -> None:
    for _ in range(times):
        change(document, lambda content: str(int(content or b"0") + 1).encode())


def test_no_change_of_several_threads_is_lost(tmp_path: Path, object_store: ObjectStore) -> None:
    for location in (locate(str(tmp_path / "n")), object_store.at("n")):
        threads = [
            threading.Thread(target=counted, args=(open_document(location), 10)) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert location.read_bytes() == b"40"


_COUNT = """
import sys
from ftray.store.files.document import change, open_document
from ftray.store.files.location import locate
sys.stdin.readline()
for _ in range(10):
    change(open_document(locate(sys.argv[1])), lambda c: str(int(c or b"0") + 1).encode())
"""


@pytest.mark.parametrize("where", ["local", "s3"])
def test_no_change_of_several_processes_is_lost(
    where: str, tmp_path: Path, object_store: ObjectStore
) -> None:
    url = str(tmp_path / "n") if where == "local" else object_store.url("n")
    command = [sys.executable, "-c", _COUNT, url]
    children = [subprocess.Popen(command, stdin=subprocess.PIPE, text=True) for _ in range(3)]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    assert [child.wait() for child in children] == [0, 0, 0]
    assert locate(url).read_bytes() == b"30"


def test_a_write_whose_answer_is_lost_counts_as_written(object_store: ObjectStore) -> None:
    document = open_document(object_store.at("a.json"))
    written = document.write(b"1", document.read())
    assert written is not None
    with object_store.failing(Fault.LOSE_ANSWERS, seconds=0.5):
        again = document.write(b"2", written)
    assert again is not None and document.read() == again
    with object_store.failing(Fault.BUSY, seconds=0.5):
        assert document.write(b"3", again) is not None
    with object_store.stopped(seconds=0.5):
        assert document.read().content == b"3"


def test_the_environment_says_where_the_store_is(
    object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in object_store.environment.items():
        monkeypatch.setenv(key, value)
    document = open_document(locate(object_store.bare_url("root/b.json")))
    assert document.write(b"1", document.read()) is not None
    assert object_store.keys() == ["root/b.json"]


def test_credentials_of_a_profile(
    object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id = test\naws_secret_access_key = test\n"
    )
    for key, value in object_store.environment.items():
        monkeypatch.setenv(key, value)
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(key)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    document = open_document(locate(object_store.bare_url("root/c.json")))
    assert document.write(b"1", document.read()) is not None


def test_what_may_not_be_written_is_told(object_store: ObjectStore, tmp_path: Path) -> None:
    document = open_document(object_store.at("a.json"))
    with (
        object_store.failing(Fault.FORBIDDEN),
        pytest.raises(StorageError, match=r"a\.json.*cannot be read"),
    ):
        document.read()
    (tmp_path / "file").write_text("")
    local = open_document(locate(str(tmp_path / "file" / "a.json")))
    with pytest.raises(StorageError, match="cannot be"):
        local.write(b"1", local.read())


@pytest.mark.parametrize("name", ["a b", "50%", "a%20b", "x#y", "what?", "ä", "a+b", "[1]", "~"])
def test_the_file_is_the_one_that_others_read(place: Place, name: str) -> None:
    document = open_document(place(name))
    assert document.write(b"1", document.read()) is not None
    assert place(name).read_bytes() == b"1"
    place(name).write_bytes(b"2")
    assert document.read().content == b"2"


@pytest.mark.parametrize("place", ["local", "s3"], indirect=True)
def test_a_file_that_is_replaced_while_it_is_read_is_read_whole(place: Place) -> None:
    file, whole = place("a.json"), {b"short", b"long" * 5_000}
    file.write_bytes(b"short")
    over = threading.Event()

    def replace() -> None:
        while not over.is_set():
            for content in whole:
                file.write_bytes(content)

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        read = {open_document(file).read().content for _ in range(60)}
    finally:
        over.set()
        writer.join()
    assert read <= whole, [len(content or b"") for content in read]
