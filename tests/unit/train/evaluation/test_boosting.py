"""Gradient boosting beside the training on a table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ftray.models.artifact.worth import Worth
from ftray.models.inference.significance import Spent, answers_of, measure_worth
from ftray.store.files.location import locate
from ftray.tasks import task_info
from ftray.tasks.classification import LABEL
from ftray.tasks.schema import Schema
from ftray.train.evaluation.baselines import Baselines
from ftray.train.evaluation.boosting import fit_boosting
from tests.helpers.task_kinds import KINDS
from tests.helpers.task_kinds.kind import prepared


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        kind, folder = KINDS["table"], tmp_path_factory.mktemp("table")
        kind.tree(folder, rows=300)
        _, splits, _ = prepared(kind, folder, {}, 1)
        return splits


def test_trees_learn_the_columns_and_their_predictions_are_kept(data: Any, tmp_path: Path) -> None:
    found = fit_boosting(data, 0)
    assert found is not None
    baselines, event = found
    assert event["boosting"]["accuracy"] > 0.9 > event["majority"]["accuracy"]
    test = data.load("test")
    right = baselines.answers(None, test) == test.column(LABEL)  # type: ignore[arg-type]
    assert right.mean() > 0.9
    file = locate(str(tmp_path / "baselines.safetensors"))
    baselines.write(file)
    again = Baselines.read(file)
    assert again is not None and np.array_equal(again.kept, baselines.kept)


def test_a_table_of_texts_has_no_trees(data: Any) -> None:
    texts = tuple(column for column in data.schema.columns if column.kind == "text")
    assert texts
    schema: Schema = data.schema.model_copy(update={"columns": texts})
    assert fit_boosting(replace(data, schema=schema), 0) is None


def test_the_report_says_which_model_is_ahead(data: Any) -> None:
    truth = data.load("test").column(LABEL)
    wrong = np.where(np.arange(len(truth)) % 3 == 0, 1 - truth, truth)
    answers = answers_of(data.schema, truth, (np.zeros_like(truth), truth, wrong))
    told: Worth = measure_worth(
        answers, task_info(KINDS["table"].task), Spent(1.0, 0.1), len(truth), seed=0
    )
    assert "against gradient boosting, fine-tuning lost" in told.verdict()
    assert "linear probe" not in told.card() and "points over gradient boosting" in told.card()
    assert any(line.startswith("  points over boosting") for line in told.lines())
