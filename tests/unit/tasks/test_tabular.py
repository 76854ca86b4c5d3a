"""Tables: kinds of columns, bins and categories, models that are made for a table, and rows that no
table should have."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from ftray.data.dataset import Dataset, read_dataset
from ftray.errors import DataError, FtrayError, ModelError
from ftray.models.new_base import shape_of
from ftray.models.pretrained import find_pretrained
from ftray.spec.load import parse
from ftray.spec.schema import ModelSpec, Spec
from ftray.tasks import get_task
from ftray.tasks.base import TaskSetup
from ftray.tasks.schema import Schema
from ftray.tasks.tabular.columns import Column
from ftray.tasks.tabular.records import writer_of

TASK = get_task("tabular-classification")
NEW = "new://table?layers=1&width=16&heads=2"
ROWS = [
    {
        "id": place,
        "age": 20 + place % 30,
        "zip": f"0{place % 5}",
        "job": "pilot" if place == 7 else ("nurse", "cook")[place % 2],
        "day": f"2024-{place % 12 + 1:02}-03",
        "note": f"a note of {place} words " * 2,
        "same": "x",
        "none": None,
        "name": f"person {place}",
        "label": ("no", "yes")[place % 3 == 0],
    }
    for place in range(600)
]


def fitted(rows: list[dict[str, Any]], **options: Any) -> Schema:
    clean = [TASK.parse({"record": row, "label": row.get("label", "a")}) for row in rows]
    return TASK.fit(clean, TASK.info.options(**options))


@pytest.fixture(scope="module")
def schema() -> Schema:
    return fitted([{n: v for n, v in row.items() if n != "label"} for row in ROWS])


@pytest.fixture(scope="module")
def setup(schema: Schema, tmp_path_factory: pytest.TempPathFactory) -> TaskSetup:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        found = find_pretrained(ModelSpec(name_or_path=NEW), schema)
        return TaskSetup(found.processor(TASK.info), schema, 64, TASK.info.options())


def column(schema: Schema, name: str) -> Column:
    (found,) = (column for column in schema.columns if column.name == name)
    return found


def test_kinds_are_found_in_the_rows(schema: Schema) -> None:
    kinds = {column.name: column.kind for column in schema.columns}
    assert kinds == {
        "id": "ignore",
        "age": "number",
        "zip": "category",
        "job": "category",
        "day": "date",
        "note": "text",
        "same": "ignore",
        "none": "ignore",
        "name": "ignore",
    }
    assert schema.fields["note"] == "note" and "id" not in schema.fields
    (line,) = (line for line in schema.lines() if line.startswith("none"))
    assert "600" in line and "no row has a value" in line


def test_a_category_of_one_row_teaches_what_an_unseen_one_means(setup: TaskSetup) -> None:
    schema, text = setup.schema, writer_of(setup).text
    assert column(schema, "job").values == ("cook", "nurse")
    assert text({"job": "pilot"}) == text({"job": "smith"}) != text({"job": "cook"})
    assert text({"zip": "01"}) != text({"zip": 1}), "a leading zero makes a code"


def test_numbers_beyond_those_of_the_training_are_in_the_outer_bins(setup: TaskSetup) -> None:
    text = writer_of(setup).text
    assert text({"age": -1e300}) == text({"age": 20}) != text({"age": 30})
    assert text({"age": "4e9"}) == text({"age": 49})


def test_a_row_is_a_token_for_each_column_and_three_for_a_date(setup: TaskSetup) -> None:
    asked = {"age": 33, "job": "cook", "zip": "00", "day": "2024-02-29", "strange": 1}
    (example,), (missing,), nothing = TASK.encode(setup, [asked, {"age": 33}, {"strange": 1}])
    words = setup.processor.convert_ids_to_tokens(example["input_ids"])
    assert words[0] == "[CLS]" and words[-1] == "[SEP]" and "[UNK]" not in words
    assert {"day month 2", "day weekday 3", "job=cook", "zip=00"} <= {*words}
    assert len(missing["input_ids"]) == len(words) == 8
    assert setup.processor.convert_ids_to_tokens(missing["input_ids"]).count("day?") == 3
    assert nothing == [] and len(TASK.encode(setup, [{"age": None}])) == 1


def test_a_row_asks_for_the_cells_with_the_mask_token(setup: TaskSetup) -> None:
    task = get_task("tabular-fill-mask")
    asked = replace(setup, options=task.info.options())
    row = {"age": 30, "job": "cook", "day": "2024-05-03"}
    rows = (row, {**row, "age": "[MASK]", "day": "[MASK]"})
    whole, hidden = (task.encode(asked, [each])[0][0] for each in rows)
    mask, places = setup.processor.mask_token_id, hidden["hidden"].tolist()
    assert len(places) == 4, "a number is a token, a date three"
    assert all(hidden["input_ids"][place] == mask for place in places)
    assert len(hidden["input_ids"]) == len(whole["input_ids"])


def test_the_model_opens_without_ftray_and_neighbouring_bins_are_alike(
    schema: Schema, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    first, again = (find_pretrained(ModelSpec(name_or_path=NEW), schema) for _ in range(2))
    assert first.folder == again.folder and first.digest() == again.digest()
    other = find_pretrained(ModelSpec(name_or_path=f"{NEW}&seed=1"), schema)
    assert other.weights_digest() != first.weights_digest()
    model = AutoModelForSequenceClassification.from_pretrained(first.folder)
    tokenizer = AutoTokenizer.from_pretrained(first.folder)
    text = "age #3\njob=cook"
    assert tokenizer.tokenize(text) == ["age #3", "job=cook"]
    assert model(**tokenizer(text, return_tensors="pt")).logits.shape == (1, 2)
    bins = tokenizer.convert_tokens_to_ids(column(schema, "age").bins)
    found = model.get_input_embeddings().weight[bins].detach()
    steps = torch.linalg.norm(found.diff(dim=0), dim=1).mean()
    assert steps < 0.5 * torch.linalg.norm(found - found.mean(0), dim=1).mean()


def test_a_model_of_the_same_table_keeps_its_bins_and_refuses_other_columns(
    setup: TaskSetup,
) -> None:
    rows = [{"age": 1000 + place, "job": ("a", "b")[place % 2]} for place in range(60)]
    text = writer_of(TaskSetup(setup.processor, fitted(rows))).text
    assert text({"age": 33, "job": "cook"}) == writer_of(setup).text({"age": 33, "job": "cook"})
    for rows, told in (
        ([{"size": place % 3} for place in range(9)], "task_options.columns.size: ignore"),
        ([{"job": place % 3} for place in range(9)], "task_options.columns.job: category"),
    ):
        with pytest.raises(ModelError, match=told):
            writer_of(TaskSetup(setup.processor, fitted(rows)))


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("new://tree", "rows of a table"),
        ("new://table?depth=3", "depth"),
        ("new://table?layers=0", "layers"),
        ("new://table?width=10&heads=4", "no multiple"),
    ],
)
def test_a_shape_that_no_model_has_is_told(url: str, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        shape_of(url)


def test_a_new_model_needs_columns_that_it_can_read() -> None:
    with pytest.raises(ModelError, match="is for the rows of a table, and the data has none"):
        find_pretrained(ModelSpec(name_or_path=NEW))
    texts = [{"note": f"a note of {place} words"} for place in range(60)]
    with pytest.raises(ModelError, match="Name a pretrained model"):
        find_pretrained(ModelSpec(name_or_path=NEW), fitted(texts))


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"job": "number"}, "of 600 values are none, such as"),
        ({"name": "date"}, "600 of 600 values are none"),
        ({"jobs": "category"}, "no such column.*job"),
    ],
)
def test_a_kind_that_the_values_do_not_have_is_told(columns: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        fitted(ROWS, columns=columns)


def test_ten_thousand_categories_keep_the_commonest() -> None:
    rows = [{"of": f"c{min(place, 20_000 - place)}", "age": place % 7} for place in range(20_000)]
    found = column(fitted(rows), "of")
    assert (found.kind, found.distinct, len(found.values)) == ("category", 10_001, 1_000)


# From files


def spec_of(folder: Path, content: str, **data: Any) -> Spec:
    (folder / "rows.csv").write_text(content)
    return parse(
        {
            "name": "tiny",
            "task": "tabular-classification",
            "model": {"name_or_path": NEW},
            "data": {
                "train": str(folder / "rows.csv"),
                "columns": {"label": "bad"},
                "validation": 0.2,
                "test": 0.2,
                **data,
            },
        }
    )


def read(folder: Path, content: str, **data: Any) -> Dataset:
    return read_dataset(spec_of(folder, content, **data))


def csv(*lines: str, repeat: int = 10) -> str:
    return "age,job,day,bad\n" + "\n".join(lines * repeat) + "\n"


PLAIN = csv("33,cook,2024-01-01,no", "41,nurse,2024-02-01,yes", "NA,,2024-03-01,no")


def test_all_other_columns_are_read_and_equal_rows_stay(tmp_path: Path) -> None:
    found = read(tmp_path, PLAIN)
    assert sum(rows.num_rows for rows in found.splits.values()) == 30
    assert [column.name for column in found.schema.columns] == ["age", "day", "job"]
    assert column(found.schema, "age").missing == found.splits["train"].num_rows // 3
    row = found.splits["train"].table().to_pylist()[0]
    assert set(row) == {"record", "label"} and "bad" not in json.loads(row["record"])


def test_a_spec_chooses_columns_and_the_column_of_the_split_is_not_read(tmp_path: Path) -> None:
    chosen = read(tmp_path, PLAIN, columns={"label": "bad", "record": ["job"]})
    assert [column.name for column in chosen.schema.columns] == ["job"]
    split = read(tmp_path, PLAIN, split={"by": "time", "column": "day"})
    assert [column.name for column in split.schema.columns] == ["age", "job"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (csv("33,cook,2024-01-01,", "41,nurse,2024-02-01,yes"), "10 rows without a label"),
        (PLAIN.replace("age,job", "job,job", 1), "2 columns of .* are called 'job'"),
        (PLAIN.replace("bad", "good", 1), "no such column.*age, job, day, good"),
    ],
)
def test_a_table_that_cannot_be_learnt_is_told_in_one_line(
    content: str, told: str, tmp_path: Path
) -> None:
    with pytest.raises(FtrayError, match=told) as caught:
        read(tmp_path, content)
    assert len(str(caught.value).splitlines()) == 1
