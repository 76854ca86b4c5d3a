"""Reranking: metrics of rankings, rows in lists, and what a request gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, ndcg_score

from ftray.errors import DataError
from ftray.serve.protocols.oip.tensors import read_request
from ftray.serve.signature import request_type
from ftray.tasks import get_task
from ftray.tasks.text.retrieval.rankings import ranked
from tests.helpers.task_samples import SAMPLES, columns_of

TASK = get_task("text-ranking")
SAMPLE = SAMPLES["text-ranking"]
INPUTS = tuple(TASK.info.inputs(TASK.info.forms[0]).items())


def test_the_metrics_are_those_of_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    queries, scores = np.repeat(np.arange(20), 15), draw.random(300)
    truth = draw.integers(0, 4, 300) / 3
    found = ranked(scores, truth, queries)
    each = [(truth[queries == q], scores[queries == q]) for q in range(20)]
    ndcg = np.mean([ndcg_score([t], [s], k=10) for t, s in each])
    precision = np.mean([average_precision_score(t >= 0.5, s) for t, s in each])
    assert found["ndcg_at_10"] == pytest.approx(ndcg)
    assert found["average_precision"] == pytest.approx(precision)


def test_the_first_relevant_passage_of_ten_counts() -> None:
    truth = np.zeros(24)
    truth[[2, 11 + 12]] = 1  # the third of one query, the last of the other
    scores, queries = -np.arange(24.0), np.repeat([7, 3], 12)
    assert ranked(scores, truth, queries)["mrr_at_10"] == pytest.approx(1 / 3 / 2)
    same = np.concatenate([truth, np.zeros(2)])
    more = ranked(np.append(scores, [0, 1]), same, np.append(queries, [9, 9]))
    assert more["mrr_at_10"] == pytest.approx(1 / 3 / 2), "a query without a choice is left out"


def test_single_passages_count_as_those_of_one_query() -> None:
    scores, truth = np.array([0.9, 0.5, 0.1]), np.array([0.0, 1.0, 0.0])
    assert ranked(scores, truth, np.arange(3))["mrr_at_10"] == 0.5


def test_scores_that_tell_nothing_apart_are_not_good() -> None:
    truth = np.array([1.0, 0.0, 0.0])
    assert ranked(np.ones(3), truth, np.zeros(3))["mrr_at_10"] == pytest.approx(1 / 3)


def test_each_passage_of_a_row_is_learnt() -> None:
    row = TASK.parse({"query": "Who?", "positive": "Ann", "negative": ["Bo", "Cy"]})
    other = TASK.parse({"query": "who?", "passages": ["Ann", "Di"], "scores": [5, 0]})
    setup = SAMPLE.setup(TASK, full_score=5)
    row["scores"] = [5 * score for score in row["scores"]]
    found = TASK.examples(setup, columns_of((row, other)))
    assert found.rows == [0, 0, 0, 1, 1]
    assert found.features["score"] == [1, 0, 0, 1, 0]
    assert len(set(found.features["query_key"])) == 1, "whatever its case"
    with pytest.raises(DataError, match="from 0 to 1"):
        TASK.examples(SAMPLE.setup(TASK), columns_of((other,)))


def test_passages_come_sorted_and_say_their_places(tmp_path: Path) -> None:
    torch.manual_seed(1)
    setup = SAMPLE.setup(TASK)
    asked = {"query": "who is it", "passages": ["a man", "the price", "Ann", "it is Ann"]}
    (examples,) = TASK.encode(setup, [asked])
    logits = torch.tensor([[0.0], [2.0], [-1.0], [1.0]])
    answered = [[(each, {"logits": of}) for each, of in zip(examples, logits, strict=True)]]
    (answer,) = TASK.answers(setup, [asked], answered)
    assert [each["index"] for each in answer] == [1, 3, 0, 2]
    assert [each["text"] for each in answer] == ["the price", "it is Ann", "a man", "Ann"]
    assert answer[2]["score"] == 0.5 and TASK.summary(answer) == "1"
    (best,) = TASK.answers(setup, [asked], answered, top_k=2)
    assert best == answer[:2]
    outcome = TASK.outcome(answer)
    assert outcome["prediction"] == "the price"
    assert outcome["scores"] == pytest.approx(torch.sigmoid(logits[:, 0]).tolist())


def test_a_dummy_has_the_inputs_of_a_request() -> None:
    setup = SAMPLE.setup(TASK)
    ((example,),) = TASK.encode(setup, [{"query": "who", "passages": ["Ann"]}])
    assert TASK.dummy(setup, 4).keys() == example.keys()


@pytest.mark.parametrize(
    ("passages", "told"),
    [([], "at least 1"), ("Ann", "list"), ([7], "string"), (["a"] * 1025, "at most 1024")],
)
def test_a_request_has_a_list_of_passages(passages: object, told: str) -> None:
    body = {"inputs": {"query": "who", "passages": passages}}
    with pytest.raises(ValueError, match=told):
        request_type(INPUTS).model_validate(body)


def test_a_tensor_has_the_passages_as_json() -> None:
    def asked(passages: str) -> bytes:
        tensors = [
            {"name": name, "shape": [1], "datatype": "BYTES", "data": [value]}
            for name, value in (("query", "who"), ("passages", passages))
        ]
        return json.dumps({"inputs": tensors}).encode()

    _, questions = read_request(asked('["Ann", "Bo"]'), None, INPUTS, ("ranking",))
    assert questions == [{"query": "who", "passages": ["Ann", "Bo"]}]
    for wrong in ("Ann", "[]", "[7]"):
        with pytest.raises(Exception, match=r"inputs\.1\.data\.0"):
            read_request(asked(wrong), None, INPUTS, ("ranking",))
