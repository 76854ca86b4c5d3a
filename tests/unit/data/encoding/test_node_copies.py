"""Shards of a remote root: fetched once for all processes of a node, and mapped."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.fs as pafs
import pytest

from ftray.data.encoding.encoded import EncodedDataset
from ftray.spec.load import parse
from ftray.store.cache import node_copies
from ftray.store.files.location import Location
from ftray.tasks.text.texts import IDS
from tests.helpers.models.encoded import write_encoded
from tests.helpers.models.tiny_model import BASE

SPLITS = {"train": ["one text", "another text"], "validation": ["a third"], "test": ["the last"]}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home" / ".cache" / "ftray" / "data"


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are fetched."""
    names: list[str] = []
    download = Location.download

    def counted(file: Location, target: Path) -> None:
        names.append(file.name)
        download(file, target)

    monkeypatch.setattr(Location, "download", counted)
    return names


@pytest.fixture
def remote(tmp_path: Path, home: Path) -> EncodedDataset:
    """Encoded rows on a file system that is not this machine's."""
    spec = parse({"name": "t", "model": {"name_or_path": BASE}, "data": {"train": "x"}})
    encoded = write_encoded(tmp_path / "store", spec, SPLITS)
    fs = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    return replace(encoded, location=Location(fs, "store", "s3://bucket/store"))


def ids(encoded: EncodedDataset) -> list[list[int]]:
    train = encoded.load("train")
    return [example[IDS].tolist() for example in train.examples(range(len(train)))]


def test_a_shard_is_fetched_once_and_mapped(
    remote: EncodedDataset, home: Path, fetched: list[str]
) -> None:
    with ThreadPoolExecutor(4) as ranks:
        found = list(ranks.map(lambda _: ids(remote), range(4)))
    assert found == [found[0]] * 4 and len(found[0]) == 2
    assert fetched == ["train.arrow"], "and no other split"
    files = sorted(file.name for file in (home / remote.digest).iterdir())
    assert files == [".train.arrow.lock", "train.arrow"]
    kept = remote.load("train")
    assert str(home / remote.digest / "train.arrow") in Path("/proc/self/maps").read_text()
    assert not kept.example(0)[IDS].flags.writeable


def test_a_local_root_has_no_copies(tmp_path: Path, remote: EncodedDataset, home: Path) -> None:
    local = Location(pafs.LocalFileSystem(), str(tmp_path / "store"), str(tmp_path / "store"))
    assert ids(replace(remote, location=local)) == ids(remote)
    assert [path.name for path in home.iterdir()] == [remote.digest], "of the remote one"


def test_a_copy_that_is_damaged_is_fetched_again(
    remote: EncodedDataset, home: Path, fetched: list[str]
) -> None:
    expected = ids(remote)
    copy = home / remote.digest / "train.arrow"
    copy.write_bytes(copy.read_bytes()[:-8])
    assert ids(remote) == expected
    assert ids(remote) == expected
    assert fetched == ["train.arrow"] * 2


def test_a_node_without_room_reads_the_store(
    remote: EncodedDataset,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = ids(remote)
    (home / remote.digest / "train.arrow").unlink()
    monkeypatch.setattr(node_copies, "_ROOM", 2**60)
    with caplog.at_level(logging.WARNING):
        assert ids(remote) == expected
    assert "no room for a copy of s3://bucket/store/train.arrow" in caplog.text
    assert not (home / remote.digest / "train.arrow").exists()


def test_copies_that_nobody_used_for_a_week_go(remote: EncodedDataset, home: Path) -> None:
    for name, days in (("old", 8), ("new", 6)):
        (home / name).mkdir(parents=True)
        (home / name / "train.arrow").write_bytes(b"x")
        then = np.datetime64("now").astype(int) - days * 86400
        os.utime(home / name, (then, then))
    ids(remote)
    assert sorted(path.name for path in home.iterdir()) == sorted([remote.digest, "new"])
