"""Rows that can be seen and give the model no token: told as bad rows are, wherever rows are
read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ftray.data.dataset import read_dataset
from ftray.data.encoding import encode
from ftray.data.encoding.encode import encode_dataset, open_encoded
from ftray.data.encoding.encoded import EncodedDataset, EncodedSplit
from ftray.errors import DataError, StorageError
from ftray.models.artifact.named import NamedModel, find_named
from ftray.offline.evaluate import evaluate
from ftray.spec.load import parse
from ftray.spec.schema import Spec
from ftray.store.files.location import locate
from ftray.store.root import open_root
from ftray.tasks import get_task
from ftray.tasks.base import TaskSetup
from ftray.tasks.classification import LABEL
from ftray.tasks.text.texts import IDS
from tests.helpers.models.tiny_model import BASE, make_model

# BERT's tokenizer reads nothing of a font's own characters.
UNREAD = {"train": "\ue000", "validation": "\ue001", "test": "\ue002"}


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "is_this_machine", lambda: True)
    monkeypatch.setattr(encode, "SHARD_ROWS", 4)


def make_spec(folder: Path, unread: dict[str, int], **data: Any) -> Spec:
    """Ten rows to train on, four of each held-out split, and `unread` of them beside."""
    for split, count in (("train", 10), ("validation", 4), ("test", 4)):
        texts = [f"{split} text {n}" for n in range(count)]
        for number in range(unread.get(split, 0)):
            texts.insert(3 * number + 1, UNREAD[split] * (number + 1))
        rows = [{"text": text, "label": "ab"[n % 2]} for n, text in enumerate(texts)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources = {split: str(folder / f"{split}.jsonl") for split in ("train", "validation", "test")}
    return parse(
        {"name": "t", "model": {"name_or_path": BASE}, "data": {**sources, **data}},
    )


def encoded(spec: Spec, folder: Path) -> EncodedDataset:
    root = open_root(str(folder / "root"))
    return encode_dataset(read_dataset(spec), locate(BASE).path, "digest", spec, root)


def read(split: EncodedSplit) -> list[str]:
    """The texts that the ids of each example stand for."""
    tokenizer = AutoTokenizer.from_pretrained(locate(BASE).path)
    ids = [example[IDS].tolist() for example in split.examples(range(len(split)))]
    return tokenizer.batch_decode(ids, skip_special_tokens=True)


def test_they_are_refused_with_their_places_and_no_data_set_is_there(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, {"train": 2, "test": 1})
    with pytest.raises(DataError) as caught:
        encoded(spec, tmp_path)
    train, test = caught.value.problems
    assert (train.key, train.value) == ("data.train", spec.data.train)
    said = f"2 of 12 rows cannot be used: 2 rows that give the model no token ({spec.data.train}:2"
    assert train.problem.startswith(said)
    assert "data.on_bad_row: skip" in train.fix
    assert f"1 row that gives the model no token ({spec.data.test}:2)" in test.problem
    (folder,) = locate(str(tmp_path / "root" / "cache" / "data")).children()
    with pytest.raises(StorageError, match="no encoded data set"):
        open_encoded(folder)


def test_they_are_left_out_counted_and_kept_aside(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, {"train": 2, "test": 1}, on_bad_row="skip")
    first = encoded(spec, tmp_path)
    assert first.rows == {"train": 10, "validation": 4, "test": 4}
    split = first.load("train")
    assert read(split) == [f"train text {n}" for n in range(10)]
    assert split.rows.tolist() == [0, 2, 3, 5, 6, 7, 8, 9, 10, 11]
    labels = split.column(LABEL).tolist()
    assert labels == [0, 0, 1, 1, 0, 1, 0, 1, 0, 1], "labels stay with their rows"
    assert first.rejected["train"] == {1: "no_tokens", 4: "no_tokens"}
    assert first.samples == tuple(f"test text {n}" for n in range(4))
    assert first.report["sources"]["train"] == {"read": 12, "dropped": {"no_tokens": 2}}
    assert first.report["rows"] == first.rows
    lines = (first.location / "quarantine.jsonl").read_bytes().decode().splitlines()
    told = [json.loads(line) for line in lines]
    assert [(row["source"], row["where"].rpartition(":")[2], row["kind"]) for row in told] == [
        ("train", "2", "no_tokens"),
        ("train", "5", "no_tokens"),
        ("test", "2", "no_tokens"),
    ]
    assert told[0]["values"]["text"] == UNREAD["train"]
    assert next(first.lines()) == "train split: 2 rows that give the model no token left out"
    again = encoded(spec, tmp_path)
    assert again == first, "what is found in the cache tells the same"
    strict = spec.model_copy(update={"data": spec.data.model_copy(update={"on_bad_row": "fail"})})
    with pytest.raises(DataError, match="2 rows that give the model no token"):
        encoded(strict, tmp_path)


def test_a_split_with_no_other_rows_is_refused(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, {}, on_bad_row="skip")
    rows = [{"text": UNREAD["test"] * n, "label": "ab"[n % 2]} for n in range(1, 7)]
    Path(spec.data.test).write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="no token of any of its 6 usable rows"):
        encoded(spec, tmp_path)


def test_a_shard_of_nothing_else_is_no_shard(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, {}, on_bad_row="skip")
    texts = [*(UNREAD["test"] * n for n in range(1, 5)), "one", "two", UNREAD["test"] * 9]
    rows = [{"text": text, "label": "ab"[n % 2]} for n, text in enumerate(texts)]
    Path(spec.data.test).write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = encoded(spec, tmp_path)
    assert [shard.file for shard in found.shards["test"]] == ["test-00001.arrow"]
    split = found.load("test")
    assert read(split) == ["one", "two"] and split.rows.tolist() == [4, 5]
    assert found.rejected["test"] == dict.fromkeys((0, 1, 2, 3, 6), "no_tokens")
    assert found.samples == ("one", "two")


def lossy_tokenizer() -> PreTrainedTokenizerFast:
    """Knows ten digits and drops all else: there is no token for what is unknown."""
    made = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, **{str(n): n + 2 for n in range(10)}}))
    made.normalizer = normalizers.Replace(Regex("[^0-9]"), "")
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize(
    ("prompt", "completion", "is_empty"),
    [
        ("1", "2", False),
        ("", "2", False),  # a text that is learnt whole
        ("one", "2", True),
        ("1", "two", True),
        ("", "two", True),
    ],
)
def test_prompts_and_completions_of_no_tokens(prompt: str, completion: str, is_empty: bool) -> None:
    rows = {"prompt": ["7", prompt], "completion": ["8", completion]}
    task = get_task("text-generation")
    setup = TaskSetup(lossy_tokenizer(), max_length=16, options=task.info.options())
    found = task.examples(setup, rows)
    assert found.rejected == ({1: "no_tokens"} if is_empty else {})
    assert found.rows == ([0] if is_empty else [0, 1])
    assert len(found.each()) == len(found.lengths) == len(found)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> NamedModel:
    return find_named(make_model(tmp_path_factory.mktemp("rejected") / "model").path, None)


def test_evaluation_treats_them_as_it_does_other_bad_rows(
    tmp_path: Path, model: NamedModel
) -> None:
    data = tmp_path / "rows.jsonl"
    rows = [("a fine film", "good"), (UNREAD["test"], "good"), ("dull", "bad")]
    data.write_text("".join(json.dumps({"text": t, "label": n}) + "\n" for t, n in rows))
    with pytest.raises(DataError) as caught:
        evaluate(model, str(data), {}, None)
    (problem,) = caught.value.problems
    assert (problem.key, problem.value) == ("--data", str(data))
    said = f"1 of 3 rows cannot be used: 1 row that gives the model no token ({data}:2)"
    assert problem.problem == said
    model.info.spec["data"]["on_bad_row"] = "skip"
    try:
        found = evaluate(model, str(data), {}, None)
        assert found.rows == 2
        data.write_text(json.dumps({"text": UNREAD["test"], "label": "good"}) + "\n")
        with pytest.raises(DataError, match="no token of any of its 1 usable rows"):
            evaluate(model, str(data), {}, None)
    finally:
        model.info.spec["data"]["on_bad_row"] = "fail"
