"""The storage root: checking it leaves nothing behind, and never takes what others put there."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ftray.errors import StorageError
from ftray.store.root import open_root


def test_checking_a_new_root_leaves_nothing(tmp_path: Path) -> None:
    open_root(str(tmp_path / "new")).check_writable()
    assert list(tmp_path.iterdir()) == []


def test_checking_a_root_leaves_it_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("content")
    open_root(str(tmp_path)).check_writable()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_root_that_cannot_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="storage = .*file/root: cannot be written"):
        open_root(str(tmp_path / "file" / "root")).check_writable()


def test_what_another_begins_to_write_meanwhile_stays(tmp_path: Path) -> None:
    for turn in range(100):
        root = open_root(str(tmp_path / str(turn)))
        together = threading.Barrier(2)

        def write(root: object = root, together: threading.Barrier = together) -> None:
            together.wait()
            for name in ("first", "second"):
                (open_root(str(root)).location / name).write_bytes(b"content")

        thread = threading.Thread(target=write)
        thread.start()
        together.wait()
        root.check_writable()
        thread.join()
        assert {path.name for path in (tmp_path / str(turn)).iterdir()} == {"first", "second"}


def test_a_root_below_a_link_that_leads_nowhere_is_said(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(StorageError, match="storage = .*link/root: cannot be written"):
        open_root(str(tmp_path / "link" / "root")).check_writable()
