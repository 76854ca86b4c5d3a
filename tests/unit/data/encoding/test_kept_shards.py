"""Shards that are there are not encoded again: those of a run that was killed, and those of a
source that grew since. The files are the same as without them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ftray.data.dataset import read_dataset
from ftray.data.encoding import encode, shards
from ftray.data.encoding.encode import EncodedDataset, encode_dataset, open_encoded
from ftray.data.split_rows import Block
from ftray.errors import StorageError
from ftray.spec.load import load
from ftray.store.files.location import Location, locate
from ftray.store.root import open_root
from ftray.store.runs.folder import RunFolder
from ftray.store.runs.inputs import Inputs
from tests.helpers.external.object_store import ObjectStore
from tests.helpers.models.tiny_model import BASE

ROWS, SHARD_ROWS, BEFORE = 40, 7, 3
KILLED = f"""
import os, signal, sys
from itertools import islice
from tests.unit.data.encoding import test_kept_shards as here

def some(write, blocks):
    print(*(write(block).shard.file for block in islice(blocks, {BEFORE})), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

here.small()
here.encoded(sys.argv[1], sys.argv[2], some)
"""


def small() -> None:
    encode.SHARD_ROWS = SHARD_ROWS
    encode.is_this_machine = lambda: True


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SHARD_ROWS", "is_this_machine"):
        monkeypatch.setattr(encode, name, getattr(encode, name))  # to restore them
    small()


@pytest.fixture
def spec(tmp_path: Path) -> str:
    rows = [{"text": f"row {n} " + "word " * (n % 9), "label": "ab"[n % 2]} for n in range(ROWS)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tree = {
        "name": "t",
        "model": {"name_or_path": BASE},
        "data": {"train": str(tmp_path / "rows.jsonl")},
    }
    (tmp_path / "spec.yaml").write_text(json.dumps(tree))
    return str(tmp_path / "spec.yaml")


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The blocks that this process encodes."""
    found: list[str] = []
    encoded = shards._encoded

    def counted(block: Block, *args: Any) -> Any:
        found.append(f"{block.split}-{block.number:05}.arrow")
        return encoded(block, *args)

    monkeypatch.setattr(shards, "_encoded", counted)
    return found


def encoded(spec_file: str, root: str, here: encode.Here = map) -> EncodedDataset:
    spec = load(spec_file)
    model = locate(BASE).path
    return encode_dataset(read_dataset(spec), model, "digest", spec, open_root(root), here)


def killed(spec_file: str, root: str) -> list[str]:
    """Starts to encode in a process that is killed after some shards; returns their names."""
    command = [sys.executable, "-c", KILLED, spec_file, root]
    done = subprocess.run(command, env=os.environ, stdout=subprocess.PIPE, text=True)
    assert done.returncode == -9
    return done.stdout.split()


def contents(folder: Location) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in folder.files()}


def folder_of(root: str) -> Location:
    (folder,) = (open_root(root).location / "cache" / "data").children()
    return folder


def test_a_killed_run_is_gone_on_with_in_an_object_store(
    spec: str, tmp_path: Path, object_store: ObjectStore, computed: list[str]
) -> None:
    root = object_store.url()
    there = killed(spec, root)
    assert len(there) == BEFORE
    with pytest.raises(StorageError, match="no encoded data set"):
        open_encoded(folder_of(root))
    found = encoded(spec, root)
    rest = list(computed)
    assert rest and not set(rest) & set(there)
    fresh = encoded(spec, str(tmp_path / "fresh"))
    assert sorted(computed[len(rest) :]) == sorted([*there, *rest]), "all of them, without the kill"
    assert contents(found.location) == contents(fresh.location)
    assert not found.damage()


@pytest.fixture
def own_sources(tmp_path: Path) -> str:
    """A spec whose splits are sources of their own."""
    for split in ("train", "validation", "test"):
        write_rows(tmp_path / f"{split}.jsonl", split, range(24))
    tree = {
        "name": "t",
        "model": {"name_or_path": BASE},
        "data": {s: str(tmp_path / f"{s}.jsonl") for s in ("train", "validation", "test")},
    }
    (tmp_path / "own.yaml").write_text(json.dumps(tree))
    return str(tmp_path / "own.yaml")


def write_rows(file: Path, split: str, numbers: Iterable[int]) -> None:
    """Add rows to a file."""
    with file.open("a") as out:
        for n in numbers:
            row = {"text": f"{split} {n} " + "word " * (n % 9), "label": "ab"[n % 2]}
            out.write(json.dumps(row) + "\n")


def ran(spec_file: str, root: str) -> EncodedDataset:
    """Encode the rows, and leave the folder of a run on them."""
    found, spec = encoded(spec_file, root), load(spec_file)
    inputs = Inputs(read_dataset(spec).digest)
    RunFolder.create(open_root(root), spec, "20260101-000000-aaaaaa", inputs=inputs)
    return found


@pytest.mark.parametrize("store", ["disk", "s3"])
def test_of_a_source_that_grew_the_shards_with_new_rows_are_encoded(
    own_sources: str, tmp_path: Path, object_store: ObjectStore, computed: list[str], store: str
) -> None:
    root = str(tmp_path / "root") if store == "disk" else object_store.url()
    ran(own_sources, root)
    assert len(computed) == 3 * 4
    computed.clear()
    write_rows(tmp_path / "train.jsonl", "train", range(24, 40))
    found = encoded(own_sources, root)
    # Three shards of train were full, the fourth had three rows.
    assert computed == [f"train-{number:05}.arrow" for number in (3, 4, 5)]
    fresh = encoded(own_sources, str(tmp_path / "fresh"))
    assert found.rows["train"] == 40 and contents(found.location) == contents(fresh.location)


@pytest.mark.parametrize(
    "change", ["a new label", "an earlier row", "max_length", "a damaged shard"]
)
def test_shards_of_other_examples_are_not_taken(
    own_sources: str, tmp_path: Path, computed: list[str], change: str
) -> None:
    root, file = str(tmp_path / "root"), tmp_path / "train.jsonl"
    first = ran(own_sources, root)
    computed.clear()
    write_rows(file, "train", range(24, 28))
    if change == "a new label":
        file.write_text(file.read_text() + json.dumps({"text": "other", "label": "c"}) + "\n")
    elif change == "an earlier row":
        file.write_text(file.read_text().replace("train 1 ", "changed ", 1))
    elif change == "max_length":
        tree = json.loads(Path(own_sources).read_text())
        Path(own_sources).write_text(
            json.dumps({**tree, "data": {**tree["data"], "max_length": 9}})
        )
    else:
        shard = Path(first.location.path) / "train-00000.arrow"
        content = bytearray(shard.read_bytes())
        content[content.rindex(bytes(first.load("train").example(0)["input_ids"]))] ^= 1
        shard.write_bytes(content)
    found = encoded(own_sources, root)
    one = change in ("an earlier row", "a damaged shard")
    assert len(computed) == (2 if one else 3 * 4 + (change == "a new label"))
    computed.clear()
    assert contents(found.location) == contents(encoded(own_sources, f"{root}-fresh").location)


@pytest.mark.parametrize("harm", ["torn", "changed", "empty", "of another size of shards"])
def test_a_shard_that_is_not_what_it_should_be_is_made_anew(
    spec: str, tmp_path: Path, computed: list[str], harm: str
) -> None:
    root = str(tmp_path / "root")
    first = encoded(spec, root)
    whole, folder = contents(first.location), Path(first.location.path)
    (folder / "manifest.json").unlink()
    damaged = folder / "train-00001.arrow"
    content = bytearray(damaged.read_bytes())
    place = content.rindex(bytes(first.load("train").example(9)["input_ids"]))
    content[place] ^= 1
    damaged.write_bytes(
        {
            "torn": content[: len(content) // 2],
            "changed": content,
            "empty": b"",
            "of another size of shards": whole["train-00004.arrow"],
        }[harm]
    )
    computed.clear()
    again = encoded(spec, root)
    assert computed == ["train-00001.arrow"]
    assert contents(again.location) == whole
