"""Rare labels: metrics of ranked rows beside scikit-learn's, and the threshold that costs imply."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from ftray.errors import DataError
from ftray.tasks import get_task
from ftray.tasks.base import Row, TaskSetup
from ftray.tasks.decision import Costs, decision, mean_cost, ranking_metrics, thresholds_of
from ftray.tasks.features import Batch
from ftray.tasks.metrics import Gathered
from ftray.tasks.schema import Schema

TASK: Any = get_task("tabular-classification")
LABELS = ("no", "yes")
RARE = {"no": 9, "yes": 3}


def drawn(rows: int = 200, ties: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of two labels with many equal ones, and the labels."""
    draw = np.random.default_rng(0)
    truth = (draw.random(rows) < 0.2).astype(int)
    score = np.round(np.clip(draw.normal(0.3 + 0.2 * truth, 0.2), 0, 1) * ties) / ties
    return np.stack([1 - score, score], axis=1).astype(np.float32), truth


def test_metrics_are_those_of_scikit_learn() -> None:
    scores, truth = drawn()
    found = ranking_metrics(scores, truth, LABELS, decision(RARE, None, 0.2, None))
    rates, recall, _ = roc_curve(truth, scores[:, 1], drop_intermediate=False)
    assert found == pytest.approx(
        {
            "roc_auc": roc_auc_score(truth, scores[:, 1]),
            "average_precision": average_precision_score(truth, scores[:, 1]),
            "recall_at_fpr": recall[rates <= 0.2].max(),
        }
    )


def test_the_rarer_label_is_the_positive_one_unless_the_spec_names_it() -> None:
    assert decision(RARE, None, 0.1, None).positive == "yes"
    assert decision(RARE, "no", 0.1, None).positive == "no"
    assert decision({**RARE, "maybe": 1}, None, 0.1, None).positive is None


@pytest.mark.parametrize(
    ("counts", "positive", "costs", "told"),
    [
        (RARE, "yse", None, "task_options.positive = yse: no row has it"),
        ({**RARE, "maybe": 1}, "yes", None, "the rows have 3"),
        ({**RARE, "maybe": 1}, None, Costs(), "task_options.costs.*the rows have 3"),
    ],
)
def test_a_decision_that_the_rows_do_not_have_is_told(
    counts: Any, positive: Any, costs: Any, told: str
) -> None:
    with pytest.raises(DataError, match=told):
        decision(counts, positive, 0.1, costs)


def test_a_label_that_no_row_has_leaves_the_metrics_finite() -> None:
    scores, _ = drawn()
    found = ranking_metrics(scores, np.zeros(200, int), LABELS, decision(RARE, None, 0.1, None))
    assert found == {"roc_auc": 0.5, "average_precision": 0.0, "recall_at_fpr": 0.0}


@pytest.mark.parametrize("miss", [0.01, 1, 10, 1000])
def test_the_threshold_is_the_cheapest_of_all(miss: float) -> None:
    scores, truth = drawn()
    of = decision(RARE, None, 0.1, Costs(false_negative=miss))
    _, least = thresholds_of(scores, truth, LABELS, of)

    def cost(threshold: float) -> float:
        return mean_cost(truth, (scores[:, 1] >= threshold).astype(int), LABELS, of)

    assert cost(least) == pytest.approx(min(map(cost, np.linspace(0, 1.01, 500))))


def test_answers_and_metrics_keep_the_threshold() -> None:
    scores, truth = drawn()
    of = decision(RARE, None, 0.1, Costs(false_negative=50))
    schema = Schema(labels=LABELS, decision=of)
    before = Gathered({}, {"scores": scores, "truth": truth, "predicted": truth})
    tuned = TASK.tuned(before, schema)
    assert tuned.thresholds[1] < 0.5 and sum(tuned.thresholds) == pytest.approx(1)
    assert TASK.tuned(before, Schema(labels=LABELS, decision=decision(RARE, None, 0.1, None))) == (
        Schema(labels=LABELS, decision=decision(RARE, None, 0.1, None))
    )
    logits = torch.tensor(
        [[0.0, torch.logit(torch.tensor(tuned.thresholds[1])) + shift] for shift in (-0.1, 0.1)]
    )
    setup = TaskSetup(None, tuned)
    answers = TASK.answers(setup, [{}] * 2, [[({}, {"logits": row})] for row in logits])
    assert [answer["label"] for answer in answers] == ["no", "yes"] and answers[1]["score"] < 0.5
    batch = Batch({}, {"labels": torch.tensor([0, 0])})
    assert [j.prediction for j in TASK.judge({"logits": logits}, batch, setup)] == [0, 1]
    state = TASK.metric_state({"logits": logits}, batch, setup)
    assert state.sums["predicted"].tolist() == [1, 1]
    assert state.each["predicted"].tolist() == [0, 1]


def test_the_spec_says_what_mistakes_cost() -> None:
    rows: list[Row] = [
        {"record": '{"age": 1}', "label": "yes"},
        *[{"record": '{"age": 2}', "label": "no"}] * 3,
    ]
    options = TASK.info.options.model_validate({"costs": {"false_negative": 10}, "positive": "no"})
    found = TASK.fit(rows, options).decision
    assert (found.positive, found.costs.false_negative, found.costs.false_positive) == ("no", 10, 1)
    with pytest.raises(ValueError, match="false_negative"):
        TASK.info.options.model_validate({"costs": {"false_negative": 0}})
