"""A run that is killed while it encodes: the next one goes on from its shards to the same files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftray.data.dataset import read_dataset
from ftray.data.encoding import encode, shards
from ftray.data.encoding.encode import EncodedDataset, encode_dataset, open_encoded
from ftray.data.split_rows import Block
from ftray.errors import StorageError
from ftray.spec.load import load
from ftray.store.files.location import Location, locate
from ftray.store.root import open_root
from tests.helpers.object_store import ObjectStore
from tests.helpers.tiny_model import BASE

ROWS, SHARD_ROWS, BEFORE = 40, 7, 3
KILLED = f"""
import os, signal, sys
from itertools import islice
from tests.unit.data import test_encoding_cut_off as here

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

    def counted(block: Block, *args: object) -> object:
        found.append(f"{block.split}-{block.number:05}.arrow")
        return encoded(block, *args)  # type: ignore[arg-type]

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
