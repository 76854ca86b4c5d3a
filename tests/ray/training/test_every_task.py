"""Each kind of task from a source to a registered model: training on Ray, evaluation,
prediction, and what the model folder holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ftray.models.artifact.named import find_named
from ftray.models.load import load_model
from ftray.offline.evaluate import evaluate
from ftray.offline.predict import predict, read_rows
from ftray.offline.resume import Parts
from ftray.spec.load import parse
from ftray.spec.sections.compute import PLAIN
from ftray.store.files.location import locate
from ftray.tasks.base import from_json
from ftray.train.run import Trained
from tests.helpers.task_kinds import KINDS
from tests.helpers.task_kinds.kind import Kind, close_to
from tests.helpers.training.small_runs import Events, train_here

pytestmark = pytest.mark.usefixtures("ray_cluster")
QUICK = ("answers", "convolutions")
"""Kinds whose ways the others go, too."""
ALONE = "convolutions"
"""A kind that one worker trains, which needs no group of Ray Train."""


@pytest.fixture(
    scope="module",
    params=[k if k in QUICK else pytest.param(k, marks=pytest.mark.slow) for k in KINDS],
)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture(scope="module")
def events() -> Events:
    return []


@pytest.fixture(scope="module")
def folder(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kind")


@pytest.fixture(scope="module")
def trained(kind: Kind, folder: Path, events: Events) -> Trained:
    events.clear()
    # With sharded weights (stage 3) the export, too, goes another way.
    sharded = {"deepspeed": {"stage": 3}} if kind in (KINDS["answers"], KINDS["short"]) else {}
    scale = {"workers": 1 if kind is KINDS[ALONE] else 2}
    tree = kind.tree(folder, rows=120, scale=scale, train={"epochs": 6, **sharded})
    return train_here(tree, events)


def metrics_of(trained: Trained) -> set[str]:
    return {*trained.info.kind.metrics_of(parse(trained.info.spec).columns)}


def test_a_run_learns(trained: Trained, events: Events, kind: Kind) -> None:
    losses = [e["loss"] for e in events if e["kind"] == "epoch"]
    assert losses[-1] < losses[0]
    metrics = trained.info.metrics["test"]
    told = metrics_of(trained)
    assert told <= set(metrics)
    assert all(np.isfinite(metrics[name]) for name in told)


def test_what_evaluate_finds_is_what_the_run_found(
    trained: Trained, folder: Path, kind: Kind
) -> None:
    model = find_named(trained.version.reference, str(folder / "storage"))
    found = evaluate(model, None, {}, None)
    told = trained.info.metrics["test"]
    for name in metrics_of(trained):
        assert found.metrics[name] == pytest.approx(told[name], abs=1e-5)
    assert len(found.wrong) <= found.rows
    column = kind.data.get("group")
    told_groups = {group.value: group for group in trained.info.groups}
    groups = evaluate(model, None, {}, None, by=column).groups if column else ()
    assert told_groups.keys() == {group.value for group in groups}
    for group in groups:
        assert group.rows == told_groups[group.value].rows
        assert group.metrics == pytest.approx(told_groups[group.value].metrics, abs=1e-5)


def test_prediction_answers_as_the_model_does(trained: Trained, folder: Path, kind: Kind) -> None:
    model = find_named(trained.version.reference, str(folder / "storage"))
    source = kind.tree(folder)["data"]["train"]
    columns = trained.info.kind.outcome
    rows = read_rows(model, source, {}, None, columns)
    answers = predict(model, rows, PLAIN, Parts(locate(str(folder / "out.jsonl")), "key"))
    assert [set(outcome) for outcome in answers.outcomes] == [set(columns)] * len(rows.questions)
    loaded = load_model(trained.version.folder)
    found = loaded.outcomes(rows.questions[:5])
    for told, outcome in zip(answers.outcomes, found, strict=False):
        assert outcome is not None
        assert told == close_to(json.loads(json.dumps(outcome.columns)), 1e-5)


def test_a_model_answers_a_request_and_its_golden_answers(trained: Trained, kind: Kind) -> None:
    loaded: Any = load_model(trained.version.folder)
    loaded.check_golden()
    assert trained.info.golden
    question = from_json(kind.ask(), trained.info.inputs)
    if trained.info.kind.generates:
        (outcome,) = loaded.outcomes([question])
        assert outcome.columns["prediction"]
        return
    (alone,) = loaded.answers([question])
    others = [from_json(golden.input, trained.info.inputs) for golden in trained.info.golden]
    beside = loaded.answers([*others, question])[-1]
    assert beside == close_to(alone, 1e-4)


def test_the_baselines_are_told(trained: Trained, events: Events) -> None:
    (told,) = (event for event in events if event["kind"] == "baseline")
    assert told["rows"] > 0
    if trained.info.kind.has_baselines:
        assert trained.info.baselines is not None
        assert list(trained.info.baselines.lines())
        name = "gradient boosting" if trained.info.kind.boosting else "linear probe"
        assert name in trained.info.baselines.card()
