"""One label, however it is spelled: in training, in a source of its own, in evaluation."""

from __future__ import annotations

import json
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ftray.data.dataset import read_source
from ftray.errors import DataError
from ftray.tasks import get_task
from ftray.tasks.base import BadRow
from ftray.tasks.labels import label_name

SPELLINGS = {
    "1": ["1", 1, 1.0, "1.0", "1.00", Decimal("1.00"), "+1", " 1 ", "1\u00a0"],
    "0.1": [0.1, "0.1", ".1", "0.10", Decimal("0.10"), 0.10000000149011612, "0.10000000149011612"],
    "0": [0, -0.0, "-0", "0.0", Decimal("0E-9")],
    "100000": [1e5, "100000.0", Decimal("1E+5"), "1e+5"],
    "0.00001": [1e-5, "1e-05", "0.00001"],
    "1E+300": [1e300, "1e+300"],
    "true": [True, "True", "TRUE", "true"],
    "false": [False, "False", " false"],
    "so so": [
        "so so",
        "so\u00a0so",
        "so \u202fso",
        "\ufeffso so",
        "so\u200b so\u200d",
        "so so\0\0",
    ],
    "é": ["\u00e9", "e\u0301", "\u200ee\u0301 "],
    # These only look like numbers, or differ in more than the spelling.
    "007": ["007"],
    "1e5": ["1e5"],
    "1,000": ["1,000"],
    "9" * 5000: ["9" * 5000],
    "Positive": ["Positive"],
    "❤\ufe0f": ["❤\ufe0f"],
    "\U0001f3f4\U000e0067\U000e007f": ["\U0001f3f4\U000e0067\U000e007f"],
}


@pytest.mark.parametrize("name", SPELLINGS, ids=lambda name: ascii(name[:20]))
def test_every_spelling_has_one_name(name):
    assert {label_name(value) for value in SPELLINGS[name]} == {name}
    assert label_name(name) == name


@pytest.mark.parametrize(
    "value", [None, float("nan"), Decimal("NaN"), "", " ", "\u200b\ufeff", "\0"]
)
def test_what_cannot_be_seen_is_no_label(value):
    with pytest.raises(BadRow, match="missing_label"):
        label_name(value)


def test_formats_spell_numbers_in_their_own_ways_and_mean_the_same(read, tmp_path):
    values = [0.1, 1.0, 2.5]
    texts = {name: [f"{name} {i}" for i in range(30)] for name in ("train", "test", "validation")}
    labels = [values[i % 3] for i in range(30)]
    single = pa.table({"text": texts["train"], "label": pa.array(labels, pa.float32())})
    pq.write_table(single, tmp_path / "train.parquet")
    decimals = pa.array([Decimal(str(v)).quantize(Decimal("0.00")) for v in labels])
    pq.write_table(pa.table({"text": texts["test"], "label": decimals}), tmp_path / "test.parquet")
    rows = (
        f"{text},{label:.2f}\n" for text, label in zip(texts["validation"], labels, strict=True)
    )
    (tmp_path / "own.csv").write_text("text,label\n" + "".join(rows))
    dataset = read(
        str(tmp_path / "train.parquet"),
        test=str(tmp_path / "test.parquet"),
        validation=str(tmp_path / "own.csv"),
    )
    assert dataset.schema.labels == ("0.1", "1", "2.5")
    assert dataset.report.splits["test"] == dataset.report.splits["validation"]


def test_a_folder_per_label_whose_name_is_decomposed(read, tmp_path, jsonl):
    for number in range(20):
        # As macOS writes file names.
        file = tmp_path / "texts" / ("cafe\u0301" if number % 2 else "Tea") / f"{number}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"text {number}")
    test = jsonl([{"text": "new", "label": "caf\u00e9"}, {"text": "other", "label": "Tea\u00a0"}])
    dataset = read(str(tmp_path / "texts"), test=test)
    assert dataset.schema.labels == ("Tea", "caf\u00e9")


def test_several_spellings_are_told_with_their_counts(read, jsonl):
    rows = [{"text": f"text {i}", "label": ["1", 1, 1.0, "2", "\u200b2"][i % 5]} for i in range(50)]
    dataset = read(jsonl(rows))
    assert dataset.schema.labels == ("1", "2")
    (note,) = dataset.report.notes
    assert note == (
        "train: labels written in several ways are read as one: '1' is written '1' (10 rows), "
        "1 (10 rows), 1.0 (10 rows); '2' is written '2' (10 rows), '\\u200b2' (10 rows)"
    )


def test_labels_that_differ_by_case_are_told_and_not_merged(read, jsonl):
    names = ["Positive", "positive", "Negative"]
    dataset = read(jsonl([{"text": f"text {i}", "label": names[i % 3]} for i in range(60)]))
    assert dataset.schema.labels == ("Negative", "Positive", "positive")
    assert dataset.report.notes == (
        "train: labels that differ by case or width only are not read as one: "
        "'Positive' (20 rows), 'positive' (20 rows)",
    )


def test_an_unknown_label_names_itself_the_known_ones_and_the_nearest(read, jsonl):
    train = jsonl([{"text": f"text {i}", "label": f"label {i % 40:02}"} for i in range(400)])
    odd = [{"text": f"odd {i}", "label": f"unknown {i % 90}"} for i in range(300)]
    test = jsonl([*odd, {"text": "case", "label": "LABEL 07"}], "test.jsonl")
    with pytest.raises(DataError) as caught:
        read(train, test=test)
    message = str(caught.value)
    assert "301 rows with an unknown label" in message and "'unknown 0' (4 rows)" in message
    assert "known: label 00, label 01" in message and "'LABEL 07' for 'label 07'" in message
    assert len(message) < 1000


def test_labels_of_a_model_of_an_older_version_are_still_found(tmp_path):
    rows = [{"text": "one", "label": True}, {"text": "two", "label": 1.0}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task, labels = get_task("text-classification"), ("True", "1.0")
    columns = {"text": "text", "label": "label"}
    kept, _ = read_source(str(tmp_path / "a.jsonl"), columns, task, labels=labels)
    assert kept.table()["label"].to_pylist() == ["true", "1"]
