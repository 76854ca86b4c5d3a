"""Precision, recall and F1 of each label, the commonest mistakes, and what many labels cost."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ftray.models.artifact.manifest import LABEL_SCORES
from ftray.models.artifact.publish import write_label_scores
from ftray.tasks import get_task
from ftray.tasks.base import Batch, TaskSetup
from ftray.tasks.classification import LABEL
from ftray.tasks.metrics import ALONE, Totals
from ftray.tasks.per_label import label_scores, most_confused
from ftray.tasks.schema import Schema

LABELS = ("ant", "bee", "cat", "never")
MANY = 10_000


@pytest.fixture
def answers() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, 300)
    return truth, np.where(random.random(300) < 0.7, truth, random.integers(0, 3, 300))


def test_scores_agree_with_scikit_learn(answers: tuple[np.ndarray, np.ndarray]) -> None:
    from sklearn.metrics import precision_recall_fscore_support

    found = list(label_scores(*answers, LABELS))
    expected = precision_recall_fscore_support(*answers, labels=range(4), zero_division=0)
    assert [score.label for score in found] == list(LABELS)
    for name, values in zip(("precision", "recall", "f1", "rows"), expected, strict=True):
        assert [getattr(score, name) for score in found] == pytest.approx(list(values))
    assert [score.predicted for score in found] == np.bincount(answers[1], minlength=4).tolist()


def test_the_commonest_mistakes_agree_with_the_confusion_matrix(
    answers: tuple[np.ndarray, np.ndarray],
) -> None:
    from sklearn.metrics import confusion_matrix

    matrix = confusion_matrix(*answers, labels=range(4))
    np.fill_diagonal(matrix, 0)
    found = most_confused(*answers, LABELS)
    assert sum(pair["rows"] for pair in found) == matrix.sum()
    assert [pair["rows"] for pair in found] == sorted(matrix[matrix > 0].tolist(), reverse=True)
    for pair in found:
        place = LABELS.index(pair["label"]), LABELS.index(pair["predicted"])
        assert matrix[place] == pair["rows"]
    assert most_confused(*answers, LABELS, most=2) == found[:2]


def test_no_mistakes_are_no_pairs() -> None:
    truth = np.array([0, 1, 2])
    assert most_confused(truth, truth, LABELS) == []


def test_the_file_has_a_line_for_each_split_and_label(
    tmp_path: Path, answers: tuple[np.ndarray, np.ndarray]
) -> None:
    odd = ("a,b", 'with "quotes"', "é", "two\nlines")
    scores = list(label_scores(*answers, odd))
    write_label_scores(tmp_path, {"validation": scores, "test": scores})
    with (tmp_path / LABEL_SCORES).open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["label"] for line in lines] == [*odd, *odd]
    assert {line["split"] for line in lines} == {"validation", "test"}
    assert float(lines[0]["f1"]) == pytest.approx(scores[0].f1)


def test_a_model_without_labels_has_no_such_file(tmp_path: Path) -> None:
    write_label_scores(tmp_path, {"validation": [], "test": []})
    assert not (tmp_path / LABEL_SCORES).exists()


def test_what_is_kept_of_many_labels_grows_with_their_number_and_not_with_its_square() -> None:
    task, schema = (
        get_task("text-classification"),
        Schema(labels=[f"label {n}" for n in range(MANY)]),
    )
    logits = torch.randn(64, MANY, generator=torch.Generator().manual_seed(0))
    truth, rows = torch.arange(64), np.arange(64)
    state = task.metric_state(
        {"logits": logits}, Batch({}, {LABEL: truth}), TaskSetup(None, schema)
    )
    kept = [*state.sums.values(), *state.each.values()]
    assert sum(value.nbytes for value in kept) < 100 * MANY
    totals = Totals()
    totals.add(rows, state)
    found = totals.gathered(task.empty_state(schema), rows, ALONE)
    predicted = logits.argmax(-1).numpy()
    confused = most_confused(truth.numpy(), predicted, schema.labels)
    told = {**task.metrics(found, schema), "confused": confused}
    assert len(json.dumps(told)) < 10_000
