"""Room for the trunk cache."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ftray.errors import StorageError
from ftray.spec.load import parse
from ftray.store.cache.evict import make_room
from ftray.store.root import Root, open_root
from ftray.store.runs.folder import RunFolder, new_run_id


def fill(root: Root, **ages: float) -> Path:
    """Folders of 1,000 bytes and their manifests, used so many hours ago."""
    parent = Path(root.trunk_cache("").path)
    for name, age in ages.items():
        folder = parent / name
        folder.mkdir(parents=True)
        (folder / "states-0-0.arrow").write_bytes(bytes(998))
        manifest = folder / "manifest.json"
        manifest.write_text("{}")
        then = time.time() - 3600 * age
        os.utime(manifest, (then, then))
    return parent


def left(parent: Path) -> list[str]:
    return sorted(folder.name for folder in parent.iterdir())


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return open_root(str(tmp_path))


def test_what_was_not_used_for_longest_goes_first(root: Root) -> None:
    parent = fill(root, a=1, b=3, c=2)
    assert make_room(root, 500, 3_500, ()) == []
    assert make_room(root, 1_000, 3_000, ()) == ["b"]
    assert make_room(root, 2_500, 3_000, ()) == ["c", "a"]
    assert left(parent) == []


def test_what_is_needed_now_stays(root: Root) -> None:
    parent = fill(root, a=1, b=3, c=2)
    assert make_room(root, 1_000, 3_000, ["b"]) == ["c"]
    assert left(parent) == ["a", "b"]


def test_what_a_living_run_may_read_stays(root: Root) -> None:
    spec = parse({"name": "alive", "model": {"name_or_path": "m"}, "data": {"train": "t"}})
    run = RunFolder.create(root, spec, new_run_id(spec))
    parent = fill(root, old=3, young=-1)
    with run.beating():
        assert make_room(root, 500, 2_000, ()) == ["old"]
        with pytest.raises(StorageError, match=r"train\.trunk_gb"):
            make_room(root, 1_500, 2_000, ())
    assert left(parent) == ["young"]


def test_too_little_room_is_said_and_nothing_goes(root: Root) -> None:
    parent = fill(root, a=1, b=2)
    with pytest.raises(StorageError, match="needs 0.00 GB"):
        make_room(root, 5_000, 4_000, ())
    assert left(parent) == ["a", "b"]


def test_the_disk_counts_as_well(root: Root) -> None:
    with pytest.raises(StorageError):
        make_room(root, 1 << 60, 2.0**61, ())


def test_an_empty_root_has_room(root: Root) -> None:
    assert make_room(root, 1_000, 1e9, ()) == []
