"""The three real data sets, from their packages; slow only the first time on a machine."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections import Counter

import pytest

from ftray.errors import DataError

# 915 tweets are exact copies of others; case and spacing aside there are more.
TWINS = {"conflicting_duplicate": 623, "duplicate": 381}


def test_movie_reviews_are_clean_stratified_and_disjoint(read, demo_data):
    train, test = demo_data.movies(demo_data.DEFAULT_OUT)
    dataset = read(str(train), test=str(test))
    assert not list(dataset.dropped())
    assert {split: table.num_rows for split, table in dataset.splits.items()} == {
        "train": 2250,
        "validation": 250,
        "test": 1000,
    }
    for split in dataset.report.splits:
        share = dataset.report.splits[split]["positive"] / dataset.report.rows(split)
        assert share == pytest.approx(0.496, abs=0.001)
    assert not any("&quot;" in text for text in dataset.splits["train"].table()["text"].to_pylist())


def test_messy_tweets(read, demo_data):
    (path,) = demo_data.tweets(demo_data.DEFAULT_OUT)
    data = {"train": str(path), "columns": {"text": "text", "label": "sentiment"}}
    with pytest.raises(DataError) as caught:
        read(**data)
    message = str(caught.value)
    assert "4,934 of 38,158 rows cannot be used: 4,934 rows that do not decode" in message
    assert "the whole source seems to be in another encoding" in message

    start = time.process_time()
    dataset = read(**data, encoding="latin-1")
    assert time.process_time() - start < 3, "0.5 s on a quiet machine"
    assert dataset.report.sources["train"].read == 38_158
    assert dataset.report.sources["train"].dropped == TWINS
    texts = [t for split in dataset.splits.values() for t in split.table()["text"].to_pylist()]
    assert not [
        t for t, n in Counter(" ".join(t.split()).casefold() for t in texts).items() if n > 1
    ]


def test_skipping_keeps_the_tweets_that_read(read, demo_data):
    (path,) = demo_data.tweets(demo_data.DEFAULT_OUT)
    columns = {"text": "text", "label": "sentiment"}
    dataset = read(str(path), columns=columns, on_bad_row="skip")
    assert dataset.report.sources["train"].dropped["bad_encoding"] == 4_934


def test_bbc_news_is_a_folder_per_label_with_one_stray_byte(read, demo_data):
    (folder,) = demo_data.bbc(demo_data.DEFAULT_OUT)
    with pytest.raises(DataError, match=r"row that does not decode .*sports/199.txt:1: byte 0xa3"):
        read(str(folder))
    dataset = read(str(folder), encoding="latin-1")
    assert dataset.schema.labels == ("business", "entertainment", "politics", "sports", "tech")
    assert dataset.report.sources["train"].read == 2225


def test_checking_imports_nothing_heavy_and_is_quick(demo_data):
    demo_data.movies_full(demo_data.DEFAULT_OUT)
    script = f"""
import sys
from ftray.data.dataset import read_dataset
from ftray.spec.load import parse
model = {{"name_or_path": "unused"}}
data = {{"train": {str(demo_data.DEFAULT_OUT / "movie-reviews.jsonl")!r}}}
read_dataset(parse({{"name": "t", "model": model, "data": data}}))
print([m for m in ("ray", "torch", "transformers", "datasets") if m in sys.modules])
"""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    # Of the processor's time: others may have it meanwhile.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 2
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_a_fetched_set_is_not_fetched_again_unless_it_changed(demo_data, tmp_path, monkeypatch):
    train, test = demo_data.movies(demo_data.DEFAULT_OUT)
    rows = demo_data.movie_rows()
    fetched = []
    monkeypatch.setattr(demo_data, "movie_rows", lambda: fetched.append(1) or rows)
    paths = demo_data.movies(tmp_path)
    assert [p.read_bytes() for p in paths] == [train.read_bytes(), test.read_bytes()]
    demo_data.movies(tmp_path)
    assert len(fetched) == 1
    paths[0].write_text("torn")
    demo_data.movies(tmp_path)
    assert len(fetched) == 2 and paths[0].read_bytes() == train.read_bytes()
