"""Multi-label classification: metrics, thresholds, splits, columns with 0 and 1."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ftray.data.dataset import read_dataset
from ftray.errors import DataError, SpecError
from ftray.models.artifact.manifest import ModelInfo
from ftray.serve.protocols.oip.outputs import output_tensors
from ftray.spec.load import parse
from ftray.tasks import get_task
from ftray.tasks.label_sets import scores, thresholds
from ftray.tasks.metrics import Gathered
from tests.helpers.serving.fake_backend import INFO
from tests.helpers.task_samples import SAMPLES

TASK = get_task("multi-label-classification")


def drawn(rows: int, labels: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    truth = draw.random((rows, labels)) < draw.uniform(0.2, 0.8, labels)
    scored = np.clip(truth * 0.3 + draw.random((rows, labels)) * 0.7, 0, 1)
    return np.round(scored, 2).astype(np.float32), truth  # rounded: some are equal


@pytest.mark.parametrize("seed", range(5))
def test_metrics_are_those_of_scikit_learn(seed: int) -> None:
    from sklearn.metrics import accuracy_score, average_precision_score, f1_score

    scored, truth = drawn(40, 6, seed)
    least = np.full(6, 0.4, np.float32)
    given = scored >= least
    assert scores(scored, truth, least) == pytest.approx(
        {
            "average_precision": average_precision_score(truth, scored),
            "f1_micro": f1_score(truth, given, average="micro"),
            "f1_macro": f1_score(truth, given, average="macro"),
            "exact_match": accuracy_score(truth, given),
        }
    )


def test_labels_without_rows_cost_no_metric() -> None:
    scored = np.array([[0.9, 0.1, 0.2], [0.2, 0.1, 0.8]], np.float32)
    truth = np.array([[True, False, False], [False, False, True]])
    found = scores(scored, truth, np.full(3, 0.5))
    assert found == dict.fromkeys(("average_precision", "f1_micro", "f1_macro", "exact_match"), 1.0)
    nothing = scores(scored * 0, truth & False, np.full(3, 0.5))
    assert nothing == {"average_precision": 0, "f1_micro": 0, "f1_macro": 0, "exact_match": 1}


def test_thresholds_have_the_highest_f1() -> None:
    from sklearn.metrics import f1_score

    scored, truth = drawn(60, 4)
    best = thresholds(scored, truth)
    for place in range(4):
        found = f1_score(truth[:, place], scored[:, place] >= best[place])
        others = [
            f1_score(truth[:, place], scored[:, place] >= t) for t in np.arange(0.005, 1, 0.01)
        ]
        assert found == pytest.approx(max(others))


def test_a_rare_label_has_the_threshold_of_all_together() -> None:
    scored, truth = drawn(60, 3)
    truth[:, 0] = np.arange(60) < 4
    together = thresholds(scored.reshape(-1, 1), truth.reshape(-1, 1))
    assert thresholds(scored, truth)[0] == together[0] != thresholds(scored, truth)[1]
    assert thresholds(scored, truth & False).tolist() == [0.5] * 3


def answered(*logits: list[float]) -> list[Any]:
    return [[({}, {"logits": torch.tensor(row)})] for row in logits]


def test_thresholds_decide_answers_and_are_part_of_golden_answers() -> None:
    sample = SAMPLES["multi-label-classification"]
    setup = sample.setup(TASK)
    scored, truth = drawn(30, 4)
    tuned = TASK.tuned(Gathered({}, {"scores": scored, "truth": truth}), setup.schema)
    assert len(tuned.thresholds) == 4 and tuned.labels == setup.labels
    low, high = (
        replace(setup, schema=tuned.model_copy(update={"thresholds": (least,) * 4}))
        for least in (0.1, 0.9)
    )
    found = answered([0.0, 1.0, -9.0, 1.5])
    (many,), (none,) = (TASK.answers(each, ["a"], found) for each in (low, high))
    assert [each["label"] for each in many] == [setup.labels[place] for place in (3, 1, 0)]
    assert none == [] and TASK.outcome(none) == {"prediction": [], "scores": []}
    assert len(TASK.answers(high, ["a"], found, 2)[0]) == 2
    numbers = [TASK.numbers(found[0][0][1], each) for each in (low, high)]
    assert numbers[0] - numbers[1] == pytest.approx([0.8] * 4)


def test_tensors_tell_the_labels_given_and_all_probabilities() -> None:
    told: dict[str, Any] = {"labels": ("a", "b"), "task": TASK.info.name, "thresholds": (0.3, 0.7)}
    info = ModelInfo.model_validate({**INFO.model_dump(), **told})
    ranked = [{"label": "b", "score": 0.6}, {"label": "a", "score": 0.4}]
    labels, probabilities = output_tensors([ranked], info, ("labels", "probabilities"))
    assert labels["data"] == ['["a"]']
    assert probabilities["data"] == [0.4, 0.6] and probabilities["shape"] == [1, 2]


def spec(folder: Path, rows: list[dict[str, Any]], columns: dict[str, Any], **data: Any) -> Any:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return parse(
        {
            "name": "t",
            "task": TASK.info.name,
            "model": {"name_or_path": "unused"},
            "data": {"train": str(folder / "rows.jsonl"), "columns": columns, **data},
        }
    )


FLAGS = {"labels": ["bad", "rare"]}


def test_each_split_has_rows_of_a_rare_label(tmp_path: Path) -> None:
    rows = [{"text": f"row {n}", "bad": n % 2, "rare": int(n % 20 == 3)} for n in range(200)]
    dataset = read_dataset(spec(tmp_path, rows, FLAGS))
    assert dataset.schema.labels == ("bad", "rare")
    counts = {
        name: Counter(
            label for told in of.table()["labels"].to_pylist() for label in json.loads(told)
        )
        for name, of in dataset.splits.items()
    }
    assert {name: count["rare"] for name, count in counts.items()} == {
        "train": 8,
        "validation": 1,
        "test": 1,
    }


def test_a_column_with_0_and_1_that_is_not_there_is_named(tmp_path: Path) -> None:
    rows = [{"text": "a", "bad": 1}, {"text": "b", "bad": 0}]
    (tmp_path / "rows.csv").write_text("text,bad\na,1\n")
    tree = spec(tmp_path, rows, FLAGS).model_dump(mode="json")
    tree["data"]["train"] = str(tmp_path / "rows.csv")
    with pytest.raises(DataError) as caught:
        read_dataset(parse(tree))
    (problem,) = caught.value.problems
    assert (problem.key, problem.value) == ("data.columns.labels", "rare")


def test_rows_without_any_label_teach_nothing(tmp_path: Path) -> None:
    rows = [{"text": f"row {n}", "bad": 0, "rare": 0} for n in range(20)]
    with pytest.raises(DataError, match="have no label"):
        read_dataset(spec(tmp_path, rows, FLAGS))


def test_a_label_that_train_lacks_is_told(tmp_path: Path) -> None:
    (tmp_path / "dev.jsonl").write_text('{"text": "dev", "labels": ["good", "odd"]}\n')
    rows = [{"text": f"row {n}", "labels": ["good"] * (n % 2)} for n in range(20)]
    with pytest.raises(DataError, match="odd"):
        read_dataset(spec(tmp_path, rows, {}, validation=str(tmp_path / "dev.jsonl")))


def test_other_tasks_have_one_column_for_each(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="columns"):
        spec(tmp_path, [], {"text": ["a", "b"]})
